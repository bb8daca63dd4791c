"""The service's list of models, and the newest of a family.

Source: https://docs.claude.com/en/api/models-list
"""

from __future__ import annotations

import datetime
import json
from typing import TYPE_CHECKING

import attrs

from .api_errors import unreadable

if TYPE_CHECKING:
    from collections.abc import Iterable

FAMILIES = ("opus", "sonnet", "haiku")
"""The names that stand for the newest model of a family."""

_LONG_AGO = datetime.datetime.min.replace(tzinfo=datetime.UTC)


@attrs.frozen
class Model:
    """A model of the service, and when it came out."""

    id: str
    created_at: datetime.datetime


def models_page(host: str, body: bytes) -> tuple[list[Model], str | None]:
    """The models of one page of the list, and the id to ask for the next page after, or None.

    Raises:
      APIError: this is no such page.
    """
    try:
        page = json.loads(body)
        models = [
            Model(entry["id"], _date(entry.get("created_at")))
            for entry in page["data"]
            if isinstance(entry["id"], str)
        ]
        more = page.get("has_more") is True
        last = page.get("last_id")
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as exc:
        raise unreadable(host, "this is no list of models") from exc
    return models, last if more and isinstance(last, str) and models else None


def newest(family: str, models: Iterable[Model]) -> str | None:
    """The id of the newest model of this family, or None if there is none."""
    ours = [model for model in models if family in model.id]
    return max(ours, key=lambda model: (model.created_at, model.id)).id if ours else None


def _date(text: object) -> datetime.datetime:
    try:
        date = datetime.datetime.fromisoformat(str(text))
    except ValueError:
        return _LONG_AGO
    return date if date.tzinfo else date.replace(tzinfo=datetime.UTC)
