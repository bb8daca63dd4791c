"""The command line, and how what goes wrong is said: in one line, with an exit status."""

from __future__ import annotations

import io
import logging
import sys
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING

import click
import trio

from .._errors import SupervisorError, TrioClaudeError
from . import missing
from .ask import ask
from .chat import chat
from .simulate import simulate
from .terminal import complain, decoded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence


def run(args: Sequence[str] | None = None) -> int:
    """Run the command, and give its exit status; see :func:`trio_claude._app.main`."""
    # What the library logs, it also raises, and that is said once.
    logging.getLogger("trio_claude").addHandler(logging.NullHandler())
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # better a ? than no answer
    try:
        status = command.main(args, prog_name="trio-claude", standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        return 130  # 128 + SIGINT, as shells have it
    except click.ClickException as exc:
        complain(f"{exc.format_message()} (see trio-claude --help)")
        return exc.exit_code
    except ModuleNotFoundError as exc:
        complain(missing(exc))
    except (TrioClaudeError, OSError) as exc:
        complain(str(exc))
    except Exception as exc:
        if sys.flags.dev_mode:
            raise
        complain(
            f"a defect of trio-claude: {exc!r}; python -X dev -m trio_claude ... shows where it is"
        )
    else:
        return status if isinstance(status, int) else 0
    return 1


def _run(function: Callable[[], Awaitable[int | None]]) -> int | None:
    """Run it in Trio; of several errors, the one that counts is raised."""
    try:
        return trio.run(function)
    except BaseException as exc:
        error = _that_counts(exc)
        if error is exc:
            raise
        raise error from exc


def _that_counts(error: BaseException) -> BaseException:
    """Of a group, an interrupt, else the first; a broken pipe, whoever else failed of it."""
    if isinstance(error, BaseExceptionGroup):
        group = error.subgroup(KeyboardInterrupt) or error
        return _that_counts(group.exceptions[0])
    if isinstance(error, SupervisorError) and error.__cause__ is not None:
        cause = _that_counts(error.__cause__)
        if isinstance(cause, BrokenPipeError):  # from on_event, which wrote a line
            return cause
    return error


def _version(context: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(f"trio-claude {metadata.version('trio-claude')}")
        context.exit()


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Say which version this is.",
)
@click.pass_context
def command(context: click.Context) -> None:
    """Supervised Claude sessions for Trio.

    ask and chat use the Claude API with the key in ANTHROPIC_API_KEY, or whatever speaks like it
    at ANTHROPIC_BASE_URL. The model is --model, else ANTHROPIC_MODEL, else sonnet.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


_model = click.option("--model", metavar="NAME", help="A model, or opus, sonnet, haiku.")
_system = click.option("--system", metavar="TEXT", help="The system prompt.")


@command.command("demo", short_help="See sessions crash and come back; no key needed.")
@click.option("--live", is_flag=True, help="Use the real service, with ANTHROPIC_API_KEY.")
def _demo(live: bool) -> int | None:
    """See sessions being asked, crashed, started again, started and terminated.

    On a simulator: no key is needed. The exit status is 1 if anything of it did not happen.
    """
    from .demo import demo  # here, because only this needs rich

    return _run(partial(demo, live=live))


@command.command("ask")
@click.argument("prompt", required=False)
@_model
@_system
def _ask(prompt: str | None, model: str | None, system: str | None) -> None:
    """Ask PROMPT, and print the answer as it comes.

    What is piped in is added to the prompt; without a PROMPT, or where it is -, it is the prompt.
    """
    _run(partial(ask, _whole_prompt(prompt), model=model, system=system))


@command.command("chat")
@_model
@_system
def _chat(model: str | None, system: str | None) -> None:
    """Talk with one session, line by line.

    Ctrl-C interrupts an answer, and ends the chat where none is under way.
    """
    if sys.stdin is None:
        raise click.UsageError("there is no standard input to chat with")
    _run(partial(chat, model=model, system=system))


@command.command("simulate", short_help="Serve the Messages API, without a model.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    metavar="N",
    help="Where to listen; default: any port that is free.",
)
def _simulate(port: int) -> None:
    """Serve the Messages API on this computer, without a model behind it."""
    _run(partial(simulate, port))


def _whole_prompt(prompt: str | None) -> str:
    """What is asked: the argument, what is piped in, or both.

    Raises:
      click.UsageError: there is neither.
      OSError: what is piped in is no text.
    """
    parts = [] if prompt in (None, "-") else [prompt]
    # Somebody at a terminal is waited for only if asked for by name.
    if sys.stdin is not None and (prompt == "-" or not sys.stdin.isatty()):
        parts.append(decoded(sys.stdin.buffer.read()))
    whole = "\n\n".join(part for part in parts if part and part.strip())
    if not whole:
        raise click.UsageError("there is no prompt: give one, or pipe it in")
    return whole
