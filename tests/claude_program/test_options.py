"""Options of a session, as they arrive at the service; and what can be changed on the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from trio_claude import ControlError, ResultError
from trio_claude.simulator import script

from .support import Claude, conversations, use


async def test_options_arrive(claude: Claude) -> None:
    """What the session was told is in the requests that its program makes."""
    async with claude.session(
        model="claude-sonnet-4-6",
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
    assert body["model"] == "claude-sonnet-4-6"
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


async def test_every_flag_is_known(claude: Claude, tmp_path: Path) -> None:
    """The program takes what we call its options: each is seen to do something, where it can be."""
    elsewhere, plugin = tmp_path / "elsewhere", tmp_path / "plugin"
    (plugin / ".claude-plugin").mkdir(parents=True)
    (plugin / ".claude-plugin" / "plugin.json").write_text('{"name": "a-plugin"}')
    elsewhere.mkdir()
    mcp_config = tmp_path / "mcp.json"
    mcp_config.write_text('{"mcpServers": {}}')
    written, heard = elsewhere / "written.txt", list[str]()
    again = use("Write", file_path=str(written), content="x")
    async with claude.session(
        script({"Go on for ever": [[again], [again], [again]]}),
        add_dir=[elsewhere],
        agents={"poet": {"description": "An agent that rhymes", "prompt": "You rhyme."}},
        allowed_tools=["Write", "Read(/tmp/**)"],
        disallowed_tools=["WebFetch", "Bash(rm *)"],
        fallback_model="haiku",
        include_hook_events=True,
        max_budget_usd=10.5,
        max_turns=2,
        mcp_config=mcp_config,
        permission_mode="dontAsk",
        plugins=[plugin],
        setting_sources=[],
        settings={"env": {"NOBODY_READS_THIS": "x"}},
        stderr=heard.append,
        strict_mcp_config=True,
        config_dir=tmp_path / "config",
        extra_args={"debug-to-stderr": None},
        thinking={"type": "adaptive", "display": "summarized"},
    ) as (session, simulator):
        with pytest.raises(ResultError, match="maximum number of turns") as caught:
            await session.query("Go on for ever")
    assert caught.value.result is not None
    assert caught.value.result.subtype == "error_max_turns"
    assert written.read_text() == "x"
    body = conversations(simulator)[0].body
    assert "An agent that rhymes" in str(body["messages"])
    assert body["thinking"] == {"type": "adaptive", "display": "summarized"}
    assert heard
    assert (tmp_path / "config").is_dir()


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
    write = use("Write", file_path=str(note), content="x")
    answers = script({"Write": [[write], "Done."], "Hello": ["Hi."]})
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
