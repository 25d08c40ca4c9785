"""The command line. Results go to stdout, talk and progress to stderr; the only place that prints."""

from __future__ import annotations

import codecs
import io
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

import typer

from flairsearch.core.errors import FlairSearchError, UsageError

if TYPE_CHECKING:
    from typer.core import TyperCommand, TyperGroup

VERBS = {  # module, and in it the function, or the Typer of several verbs
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


class _Commands(Mapping[str, "TyperCommand | TyperGroup"]):
    """Made when they are asked for: to import and build those of all verbs takes longer than a server's answer."""

    def __init__(self) -> None:
        self._made: dict[str, TyperCommand | TyperGroup] = {}

    def __getitem__(self, verb: str) -> TyperCommand | TyperGroup:
        if verb not in self._made:
            self._made[verb] = self._make(verb)
        return self._made[verb]

    def _make(self, verb: str) -> TyperCommand | TyperGroup:
        module, name = VERBS[verb]
        found = getattr(import_module(f"flairsearch.cli.{module}"), name)
        if not isinstance(found, typer.Typer):
            found, command = typer.Typer(add_completion=False, rich_markup_mode=None), found
            found.command(verb)(command)
        made = typer.main.get_command(found)
        made.name = verb
        return cast("TyperCommand | TyperGroup", made)

    def __iter__(self) -> Iterator[str]:
        return iter(VERBS)

    def __len__(self) -> int:
        return len(VERBS)


def root() -> TyperGroup:
    """`flairsearch` itself."""
    app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

    @app.callback()
    def flairsearch() -> None:
        """Search a folder of photos with a sentence: the photos, and the place in each photo."""

    group: Any = typer.main.get_command(app)
    group.commands = _Commands()
    return cast("TyperGroup", group)


def main() -> None:
    """The console script: one line for every expected error."""
    # images/decoding.py checks a limit of its own.
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit")
    warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # of broken EXIF: it counts as none
    if sys.stdout is None:  # closed by the shell: >&-
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - to the end
    if isinstance(sys.stdout, io.TextIOWrapper) and codecs.lookup(sys.stdout.encoding).name != "utf-8":
        codecs.register_error("json", _escape)
        sys.stdout.reconfigure(errors="json")
    with _one_line_errors():
        root()()


def _escape(error: UnicodeError) -> tuple[str, int]:
    """What the terminal's encoding lacks, as JSON escapes it."""
    assert isinstance(error, UnicodeEncodeError)
    missing = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{high:02x}{low:02x}" for high, low in zip(missing[::2], missing[1::2], strict=True)), error.end


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except FlairSearchError as error:
        from flairsearch.output.formatting import escape

        typer.echo(f"flairsearch: {escape(str(error))}", err=True)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except SystemExit as end:  # Typer has seen it first
        if end.code == 130:
            typer.echo("flairsearch: stopped; what was committed is kept, run it again to go on", err=True)
        if isinstance(end.__context__, BrokenPipeError):  # the reader of a pipe went away: nobody is left to tell
            sys.exit(141)
        raise
    except OSError as error:  # a full disk, behind stdout too; whoever knows more has said it better
        typer.echo(f"flairsearch: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
