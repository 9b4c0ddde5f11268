"""The command ``tinyface``: finds its subcommands, and turns what goes wrong into exit codes."""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

import click

from tinyface import __version__
from tinyface.cli.common import note, print_json
from tinyface.errors import TinyfaceError

# A command is the function of its name in the module of its name. Modules are imported when
# their command is used (all of them for --help).
COMMANDS = {
    "embed": "tinyface.cli.embed",
    "verify": "tinyface.cli.verify",
    "search": "tinyface.cli.search",
    "evaluate": "tinyface.cli.evaluate",
    "detect": "tinyface.cli.detect",
    "align": "tinyface.cli.align",
    "info": "tinyface.cli.info",
    "models": "tinyface.cli.models",
    "import": "tinyface.cli.import_",
    "export": "tinyface.cli.export",
    "profile": "tinyface.cli.profile",
    "bench": "tinyface.cli.bench",
    "tables": "tinyface.cli.tables",
    "claim": "tinyface.cli.claim",
    "predict": "tinyface.cli.predict",
    "doctor": "tinyface.cli.doctor",
}

OTHER_WORDS = {"compare": "verify", "match": "verify", "identify": "search", "find": "search",
               "crop": "align", "convert": "import", "list": "models", "download": "models get",
               "benchmark": "bench", "version": "--version", "help": "--help"}  # fmt: skip

PIPE_CLOSED = 141  # 128 + SIGPIPE


class PipeClosed(Exception):
    """Whoever read our output has gone. (click ends with status 1 on a BrokenPipeError.)"""


class LazyGroup(click.Group):
    """A click group that imports a subcommand only when it is needed."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise PipeClosed from None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"No such command {args[0]!r}.{_meant(args[0])}", ctx)
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command = importlib.import_module(COMMANDS[name]).command
        assert isinstance(command, click.Command)
        return command


def _meant(word: str) -> str:
    """What somebody who typed this for a command may want."""
    if os.path.exists(word):
        return f" To embed a picture:  tinyface embed {word}"
    from difflib import get_close_matches

    near = [OTHER_WORDS[word]] if word in OTHER_WORDS else get_close_matches(word, COMMANDS, 1)
    return f" Did you mean  tinyface {near[0]}?" if near else ""


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tinyface")
def cli() -> None:
    """Face embeddings on bare CPUs.

    \b
    Example:
      tinyface embed photo.jpg
      tinyface verify one.jpg other.jpg

    Data goes to stdout, everything else to stderr. Exit status: 0 done, 1 some inputs failed,
    2 wrong usage, 3 a model was refused, 10 'verify': different people, 'search': nobody found.
    With --json there is one document in any case.
    """


def run(args: Sequence[str]) -> int:
    """Run one command line; returns the exit status and never raises."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: note(str(message))  # one line, no source
        return _run(args)


def _run(args: Sequence[str]) -> int:
    try:
        status = cli.main(list(args), prog_name="tinyface", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except (PipeClosed, BrokenPipeError):
        # Python would complain once more on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except (Exception, KeyboardInterrupt) as error:
        message, status = _refusal(error)
        if isinstance(error, click.ClickException):
            error.show()  # with the usage
        else:
            note(f"tinyface: {message}")
        if "--json" in args and not getattr(error, "documented", False):
            with suppress(OSError):  # a full disk, of which the message speaks
                print_json("error/1", {"error": message, "status": status})
        return status


def _refusal(error: BaseException) -> tuple[str, int]:
    """What to say of an error, and the exit status; raises what nobody expected."""
    match error:
        case TinyfaceError():
            return str(error), error.exit_code
        case click.ClickException():
            return error.format_message(), error.exit_code
        case KeyboardInterrupt() | click.Abort():
            said = str(error.__cause__ or error)  # click's Abort hides the other
            return said or "stopped; nothing half-done was left behind", 128 + _signal
        case MemoryError():
            return "out of memory; use smaller pictures, a smaller model, or fewer threads", 1
        case OSError():
            name = f"{error.filename}: " if error.filename else ""
            return f"{name}{error.strerror or error}; check the disk and the permissions", 1
    raise error


_signal = signal.SIGINT  # which one stopped the command; shells report 128 + its number


def _stop(number: int, frame: object) -> NoReturn:
    """The end of a session or of the machine's day, taken like Ctrl-C: files are tidied up."""
    global _signal
    _signal = signal.Signals(number)
    raise KeyboardInterrupt


def main() -> NoReturn:
    """Entry point of the installed command.

    The process ends at once: all files are closed by now, and to take apart every object that
    Python holds would be another tenth of a cold start.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed before Python began, as by a daemon
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (to the end)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a Latin-1 terminal has no "…"
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores one of them
            signal.signal(number, _stop)
    status = run(sys.argv[1:])
    with suppress(OSError):  # said already, and the status shows it
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)
