"""Options of a session, as they arrive at the service; and what can be changed on the way."""

from __future__ import annotations

import pytest

from trio_claude import ControlError
from trio_claude.simulator import script

from .support import Claude, conversations, use


async def test_options_arrive(claude: Claude) -> None:
    """What the session was told is in the requests that its program makes."""
    async with claude.session(
        model="haiku",
        system_prompt="--You are a poet.",
        append_system_prompt="You rhyme.",
        max_tokens=1234,
        extra_headers={"x-test": "a: b"},
        extra_body={"service_tier": "standard_only"},
        thinking={"type": "disabled"},
        effort="low",
        tools=["Read", "Write"],
    ) as (session, simulator):
        await session.query("--help me")
    [request] = conversations(simulator)
    body = request.body
    assert body["model"].startswith("claude-haiku-")
    assert "--You are a poet." in str(body["system"])
    assert "You rhyme." in str(body["system"])
    assert body["max_tokens"] == 1234
    assert body["service_tier"] == "standard_only"
    assert body.get("thinking", {"type": "disabled"}) == {"type": "disabled"}
    assert body["output_config"]["effort"] == "low"
    assert {tool["name"] for tool in body["tools"]} - {"DeferredToolPlaceholder"} == {
        "Read",
        "Write",
    }
    assert request.headers["x-test"] == "a: b"
    assert request.headers["x-api-key"] == "a-dummy"
    assert "--help me" in str(body["messages"])


async def test_a_token_instead_of_a_key(claude: Claude) -> None:
    """The token travels as a bearer token, and no key goes with it."""
    async with claude.session(api_key=None, auth_token="a-token") as (session, simulator):
        await session.query("Hello")
    [request] = conversations(simulator)
    assert request.headers["authorization"] == "Bearer a-token"
    assert "x-api-key" not in request.headers


async def test_what_can_be_asked_and_changed(claude: Claude) -> None:
    """The model and the permissions change from the next turn on; a wrong word changes nothing."""
    note = claude.cwd / "note.txt"
    steps = [[use("Write", file_path=str(note), content="x")], "Done."]
    answers = script({"Write": steps, "Hello": ["Hi."]})
    async with claude.session(answers, model="sonnet") as (session, simulator):
        await session.set_model("haiku")
        await session.query("Hello")
        assert conversations(simulator)[-1].body["model"].startswith("claude-haiku-")
        await session.query("Hello", model="opus")
        assert conversations(simulator)[-1].body["model"].startswith("claude-opus-")
        await session.query("Hello")
        assert conversations(simulator)[-1].body["model"].startswith("claude-haiku-")

        await session.query("Write")
        assert not note.exists()
        await session.set_permission_mode("acceptEdits")
        await session.query("Write")
        assert note.read_text() == "x"
        with pytest.raises(ControlError, match="nonsense"):
            await session.set_model("nonsense")

        assert (await session.mcp_status())["mcpServers"] == []
        info = await session.server_info()
        assert info["models"]
        assert info["pid"] > 0
        usage = await session.context_usage()
        assert usage["totalTokens"] > 0
        assert str(await session.query("Hello")) == "Hi."


async def test_files_are_rewound(claude: Claude) -> None:
    """What a turn wrote is taken back, to how it was before that turn's prompt."""
    note = claude.cwd / "note.txt"
    note.write_text("before")
    answers = script(
        {
            "Change it": [
                [use("Read", file_path=str(note))],
                [use("Write", file_path=str(note), content="after")],
                "Done.",
            ]
        }
    )
    async with claude.session(
        answers, permission_mode="acceptEdits", enable_file_checkpointing=True
    ) as (session, _):
        result = await session.query("Change it")
        assert note.read_text() == "after"
        prompt = result.extra["user_message_uuid"]
        would = await session.rewind_files(prompt, dry_run=True)
        assert would["canRewind"] is True
        assert note.read_text() == "after"
        await session.rewind_files(prompt)
        assert note.read_text() == "before"
        with pytest.raises(ControlError):
            await session.rewind_files("00000000-0000-4000-8000-000000000000")
