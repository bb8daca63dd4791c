"""The models that the simulator serves, and their list as pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import attrs

from .errors import ApiError, invalid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@attrs.frozen
class Model:
    """One model of the list."""

    id: str
    display_name: str
    created_at: str
    line: str

    @property
    def names(self) -> tuple[str, ...]:
        """What a request may call it: its id, and without the date at its end."""
        stem, _, date = self.id.rpartition("-")
        return (self.id, stem) if len(date) == 8 else (self.id,)

    def as_json(self) -> dict[str, object]:
        """Itself, as the service lists it."""
        return {"type": "model", "lifecycle": "active", **attrs.asdict(self)}


def _model(model_id: str, display_name: str, day: str) -> Model:
    line = display_name.split()[1].lower()
    return Model(model_id, display_name, f"{day}T00:00:00Z", line)


# Newest first, like the service's. The ids are the service's, and so is the order within each
# line; some of the days are made up to fit it.
MODELS: Final[Sequence[Model]] = (
    _model("claude-fable-5-2", "Claude Fable 5.2", "2026-10-20"),
    _model("claude-haiku-5-5", "Claude Haiku 5.5", "2026-10-06"),
    _model("claude-sonnet-5-5", "Claude Sonnet 5.5", "2026-09-22"),
    _model("claude-fable-5-1", "Claude Fable 5.1", "2026-09-08"),
    _model("claude-opus-5-5", "Claude Opus 5.5", "2026-08-25"),
    _model("claude-sonnet-5", "Claude Sonnet 5", "2026-07-14"),
    _model("claude-fable-5", "Claude Fable 5", "2026-06-30"),
    _model("claude-opus-5", "Claude Opus 5", "2026-06-16"),
    _model("claude-opus-4-8", "Claude Opus 4.8", "2026-05-12"),
    _model("claude-opus-4-7", "Claude Opus 4.7", "2026-04-14"),
    _model("claude-sonnet-4-6", "Claude Sonnet 4.6", "2026-02-17"),
    _model("claude-opus-4-6", "Claude Opus 4.6", "2026-02-04"),
    _model("claude-opus-4-5-20251101", "Claude Opus 4.5", "2025-11-24"),
    _model("claude-haiku-4-5-20251001", "Claude Haiku 4.5", "2025-10-15"),
    _model("claude-sonnet-4-5-20250929", "Claude Sonnet 4.5", "2025-09-29"),
)

# Claude Opus 4.8 was the first to take messages with the role "system".
_SYSTEM_MESSAGES_SINCE: Final = "2026-05-12"

_BY_NAME: Final = {name: model for model in MODELS for name in model.names}
_DEFAULT_LIMIT = 20
_MAX_LIMIT = 1000


def find(name: str) -> Model:
    """The model of that name; a 404 :class:`ApiError` where there is none."""
    try:
        return _BY_NAME[name]
    except KeyError:
        raise ApiError(404, f"model: {name}") from None


def takes_system_messages(name: str) -> bool:
    """Whether a conversation with that model may have messages with the role ``system``."""
    model = _BY_NAME.get(name)
    return model is not None and model.created_at >= _SYSTEM_MESSAGES_SINCE


def page(query: Mapping[str, str]) -> dict[str, Any]:
    """One page of the list, as asked for with ``limit``, ``after_id`` and ``before_id``."""
    limit = _limit(query.get("limit"))
    found = MODELS
    if "after_id" in query and "before_id" in query:
        raise invalid("Only one of before_id and after_id may be given.")
    if "after_id" in query:
        found = MODELS[_position("after_id", query["after_id"]) + 1 :]
    if "before_id" in query:
        found = MODELS[: _position("before_id", query["before_id"])]
        data = found[-limit:]
    else:
        data = found[:limit]
    return {
        "data": [model.as_json() for model in data],
        "has_more": len(found) > len(data),
        "first_id": data[0].id if data else None,
        "last_id": data[-1].id if data else None,
    }


def _limit(given: str | None) -> int:
    if given is None:
        return _DEFAULT_LIMIT
    # isdecimal would let other scripts' digits in.
    if not (given.isascii() and given.isdigit() and 1 <= int(given[:9]) <= _MAX_LIMIT):
        raise invalid(f"limit: Input should be a whole number from 1 to {_MAX_LIMIT}")
    return int(given)


def _position(field: str, model_id: str) -> int:
    for position, model in enumerate(MODELS):
        if model.id == model_id:
            return position
    raise invalid(f"{field}: there is no model {model_id!r}")
