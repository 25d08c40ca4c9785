"""The command `flairsearch`. Only cli/ prints: results go to stdout, messages and progress to stderr."""

from __future__ import annotations

import codecs
import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from flairsearch.core.errors import FlairSearchError, UsageError

# The option -h does the same as --help.
HELP_NAMES = {"help_option_names": ["-h", "--help"]}
# The module of each verb, and the name of its function, or of its Typer if it has verbs of its own.
VERBS = {
    "index": ("index", "index_command"),
    "query": ("query", "query_command"),
    "show": ("query", "show_command"),
    "serve": ("serve", "serve_command"),
    "status": ("index", "status_command"),
    "forget": ("maintain", "forget_command"),
    "verify": ("maintain", "verify_command"),
    "compact": ("maintain", "compact_command"),
    "demo": ("demo", "demo_command"),
    "models": ("models", "app"),
    "eval": ("evaluate", "eval_command"),
}


class LazyGroup(TyperGroup):
    """The group of all verbs. A verb is imported when it is used, since importing all takes longer than a query."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the verbs in the order of --help."""
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command of a verb; None if there is no such verb."""
        return _load_command(cmd_name) if cmd_name in VERBS else None


@cache
def _load_command(verb: str) -> Any:
    """Import the command of a verb."""
    module, name = VERBS[verb]
    app = getattr(import_module(f"flairsearch.cli.{module}"), name)
    if not isinstance(app, typer.Typer):
        app, function = typer.Typer(add_completion=False, rich_markup_mode=None), app
        app.command(verb, context_settings=HELP_NAMES)(function)
    command = typer.main.get_command(app)
    command.name = verb
    return command


def root() -> Any:
    """Return the command `flairsearch` itself."""
    app = typer.Typer(cls=LazyGroup, no_args_is_help=True, rich_markup_mode=None, context_settings=HELP_NAMES)

    @app.callback()
    def flairsearch(
        version: Annotated[
            bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
        ] = False,
    ) -> None:
        """Search a folder of photos with a sentence: find the photos, and the place in each photo."""

    return typer.main.get_command(app)


def _print_version(is_requested: bool) -> None:
    if is_requested:
        from importlib.metadata import version

        typer.echo(f"flairsearch {version('flairsearch')}")
        raise typer.Exit


def main() -> None:
    """Run the command line; every expected error is printed as one line."""
    # Pillow's warning is not needed, since images/decoding.py limits the size of images itself.
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit")
    warnings.filterwarnings(
        "ignore", category=UserWarning, module="PIL"
    )  # Pillow warns of broken EXIF, which is ignored.
    if sys.stdout is None:  # The shell has closed stdout with >&-.
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - It stays open to the end.
    if isinstance(sys.stdout, io.TextIOWrapper) and codecs.lookup(sys.stdout.encoding).name != "utf-8":
        codecs.register_error("json", _escape)
        sys.stdout.reconfigure(errors="json")
    with _one_line_errors():
        root()()


def _escape(error: UnicodeError) -> tuple[str, int]:
    """Return characters that the terminal's encoding lacks as JSON escapes, and the position after them."""
    assert isinstance(error, UnicodeEncodeError)
    missing = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{high:02x}{low:02x}" for high, low in zip(missing[::2], missing[1::2], strict=True)), error.end


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Print an expected error as one line, and exit with its status."""
    try:
        yield
    except FlairSearchError as error:
        from flairsearch.cli.option_parameters import name_on_command_line
        from flairsearch.output.formatting import escape

        typer.echo(f"flairsearch: {escape(error.named(name_on_command_line))}", err=True)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except SystemExit as end:  # Typer has handled the error already.
        if end.code == 130:
            typer.echo("flairsearch: stopped; what was committed is kept, run it again to go on", err=True)
        if isinstance(end.__context__, BrokenPipeError):  # The program that reads stdout has ended.
            sys.exit(141)
        raise
    except OSError as error:  # For example, stdout is a file on a full disk.
        typer.echo(f"flairsearch: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
