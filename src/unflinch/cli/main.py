"""The `unflinch` command: its subcommands, and how failures are told."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from unflinch import __version__
from unflinch.cli.apply import apply
from unflinch.cli.bench import bench
from unflinch.cli.chat import chat
from unflinch.cli.demo import demo
from unflinch.cli.export import export
from unflinch.cli.fit import fit
from unflinch.cli.generate import generate
from unflinch.cli.init import init
from unflinch.cli.inspect import inspect
from unflinch.cli.judge import judge
from unflinch.cli.mine import mine
from unflinch.cli.push import push
from unflinch.cli.report import report
from unflinch.cli.run import run
from unflinch.cli.scan import scan
from unflinch.cli.sign import sign, verify
from unflinch.cli.validate import validate
from unflinch.cli.web import web
from unflinch.errors import InputError, UnflinchError
from unflinch.launch import is_first, workers

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
COMMANDS = (
    *(demo, init, run, generate, mine, scan, fit, validate, bench, report, chat, web, judge),
    *(apply, export, inspect, sign, verify, push),
)
for command in COMMANDS:
    app.command()(command)


class _LogLines(logging.Handler):
    """Shows what the library logs as lines on stderr, above a progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Show one record."""
        from unflinch.cli import console  # on first use: help needs none of what it imports

        (console.warning if record.levelno >= logging.WARNING else console.note)(record.getMessage())


def _show_version(asked: bool) -> bool:
    if asked:
        typer.echo(f"unflinch {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def unflinch(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error, and all log lines.")] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version.")
    ] = False,
) -> None:
    """Stop a local language model from refusing harmless questions, and measure what else changed.

    Start with `unflinch demo`, or `unflinch run MODEL` for a model of your own.
    """
    logger = logging.getLogger("unflinch")
    logger.handlers = [_LogLines()]
    logger.setLevel(logging.DEBUG if debug else logging.WARNING)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Threads that wait for each other spin for a moment only, then sleep: waking them costs time on a quiet computer,
    # spinning takes it from them on one that does other work too. And torch may take large pages for large tensors.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if not debug:
        # Read when these libraries are imported, which the commands do: their bars and warnings are not for the user.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        warnings.simplefilter("ignore")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code: 0, 1 verdict not passed, 2 bad input, 130 Ctrl-C.

    Args:
        arguments: those of the process if not given; `--debug` may stand anywhere among them.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    ordered = ["--debug"] * debug + [argument for argument in given if argument != "--debug"]
    if workers() > 1:  # launchers end the others so when one has failed: they leave, and remove what is their own
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a character that the terminal lacks becomes `?`
    try:
        code = app(ordered or ["--help"], prog_name="unflinch", standalone_mode=False)
    except Exception as error:
        explained = explain(error)
        if explained is None:
            raise
        sentence, code = explained
        if debug:
            traceback.print_exception(error)
        from unflinch.cli import console

        if is_first() or not isinstance(error, InputError):  # a user's mistake is the same on every worker
            console.error(sentence)
    sys.exit(code)


def explain(error: Exception) -> tuple[str, int] | None:
    """Return a sentence and an exit code for a failure that is no bug of ours, else None."""
    if isinstance(error, UnflinchError):
        return str(error), error.exit_code
    if isinstance(error, typer.Abort):
        return "stopped", 130
    if hasattr(error, "format_message"):  # what typer raises for a wrong command line; its class has no public name
        context = getattr(error, "ctx", None)
        place = context.command_path if context else "unflinch"
        return f"{error.format_message().rstrip('.')}; see {place} --help", 2
    if isinstance(error, OSError):
        return f"{error.filename or 'reading or writing'}: {error.strerror or error}", 2
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out of memory; give a smaller model, --dtype bfloat16, --device cpu or a smaller fit.batch_size", 2
    return None
