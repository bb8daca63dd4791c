"""What came: one request as the simulator received it, with its secrets out of sight."""

import json
from collections.abc import Mapping
from typing import Any, Final, NoReturn

import attrs

_SECRET: Final = frozenset({"authorization", "cookie", "proxy-authorization", "x-api-key"})


class Headers(dict[str, str]):
    """Headers by their lower-case names; the repr hides the secrets among them."""

    def __repr__(self) -> str:
        return repr({name: "***" if name in _SECRET else self[name] for name in self})


@attrs.frozen
class SimulatedRequest:
    """One request that the simulator received, whatever it answered."""

    method: str
    """In upper case."""
    path: str
    """Without the query."""
    query: str
    """What stood after the question mark, as it came; empty where there was none."""
    headers: Mapping[str, str] = attrs.field(converter=Headers)
    """By lower-case name. The values are all there; the repr hides keys and tokens."""
    body: Any
    """The decoded JSON, or None: no body, not JSON, or too large."""


def decode_json(raw: bytes) -> Any:
    """The JSON in a body; ValueError where there is none, for NaN and Infinity too."""
    try:
        return json.loads(raw, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
