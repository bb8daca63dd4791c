"""What is looked at when a conversation is begun, and when it is not looked at again."""

from __future__ import annotations

from typing import Any

import pytest

from trio_claude import ConfigurationError, MessagesBackend, SessionOptions
from trio_claude._options import session_options


@pytest.mark.parametrize(
    ("invalid", "said"),
    [
        ({"base_url": "http://\xad"}, "base_url"),
        ({"extra_headers": {"content-length": "1"}}, "content-length"),
        ({"extra_body": {"stream": False}}, "stream"),
    ],
    ids=["address", "headers", "body"],
)
async def test_other_options_are_checked_as_the_first_ones_were(
    invalid: dict[str, Any], said: str
) -> None:
    """Options that could be sent say nothing of others, and those that could not stay refused."""
    async with MessagesBackend().connect() as connection:
        for options in ({}, {}, invalid, invalid):
            session = session_options(SessionOptions(api_key="x", **options))
            if options is invalid:
                with pytest.raises(ConfigurationError, match=said):
                    async with connection.open(session):
                        raise AssertionError("it was refused")
            else:
                async with connection.open(session):
                    pass


async def test_options_with_a_mapping_are_checked_each_time() -> None:
    """The very same options can be sent no more once somebody has changed what is in them."""
    body = {"service_tier": "standard_only"}
    session = session_options(SessionOptions(api_key="x", extra_body=body))
    async with MessagesBackend().connect() as connection:
        async with connection.open(session):
            pass
        body["messages"] = "mine"
        with pytest.raises(ConfigurationError, match="messages"):
            async with connection.open(session):
                raise AssertionError("it was refused")
