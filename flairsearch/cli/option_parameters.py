"""The options of a search on the command line, derived from core/request.OPTIONS."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from flairsearch.core.option import Option
from flairsearch.core.request import OPTIONS


def takes_search_options(command: Callable[..., None]) -> Callable[..., None]:
    """A Typer command that takes every option of a search, and its own parameters.

    The function gets the options' values by name in its first parameter, a dictionary. A call from Python
    names its arguments; options of a search that it leaves out have their defaults.
    """
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in {name: _typer_option(name) for name in OPTIONS}.items()
    ]

    def run(**given: Any) -> None:
        values = {name: given.pop(name, default) for name, (_, default) in OPTIONS.items()}
        command(values, **given)

    every = [*parameters, *(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own)]
    run.__doc__, run.__name__ = command.__doc__, command.__name__
    run.__annotations__ = {one.name: one.annotation for one in every} | {"return": None}
    run.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
    return run


def name_on_command_line(parameter: str) -> str:
    """What a parameter is called on the command line: `min_area` is `--min-area`."""
    return {"text": "TEXT", "k": "-k"}.get(parameter, f"--{parameter.replace('_', '-')}")


def _typer_option(name: str) -> tuple[Any, Any]:
    """The annotation and the default of a command's parameter."""
    option, default = OPTIONS[name]
    if name == "text":
        return Annotated[list[str] | None, typer.Argument(metavar=option.metavar, help=option.help)], None
    found = typer.Option(
        name_on_command_line(name), help=option.help, metavar=option.metavar, autocompletion=_completion_of(option)
    )
    if option.many:
        return Annotated[list[option.kind], found], []  # type: ignore[name-defined]
    if default is None:
        return Annotated[option.kind | None, found], None
    return Annotated[option.kind, found], default


def _completion_of(option: Option) -> Callable[[str], Sequence[str]] | None:
    if not option.choices:
        return None

    def complete(incomplete: str) -> Sequence[str]:
        return [choice for choice in option.choices if choice.startswith(incomplete)]

    return complete
