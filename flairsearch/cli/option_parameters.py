"""The options of a search on the command line, derived from core/request.OPTIONS."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from flairsearch.core.option import Option
from flairsearch.core.request import OPTIONS


def takes_search_options(command: Callable[..., None]) -> Callable[..., None]:
    """Return a Typer command with all options of a search besides the parameters of `command`.

    `command` gets a dictionary with the values of all options, by name, as its first argument. Calls from Python pass
    keyword arguments; missing options have their defaults.
    """
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in {name: _typer_option(name) for name in OPTIONS}.items()
    ]

    def run(**arguments: Any) -> None:
        values = {name: arguments.pop(name, default) for name, (_, default) in OPTIONS.items()}
        command(values, **arguments)

    parameters += [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    run.__doc__, run.__name__ = command.__doc__, command.__name__
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters} | {"return": None}
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


def name_on_command_line(parameter: str) -> str:
    """Return the name of a parameter on the command line: `min_area` is `--min-area`."""
    return {"text": "TEXT", "k": "-k"}.get(parameter, f"--{parameter.replace('_', '-')}")


def _typer_option(name: str) -> tuple[Any, Any]:
    """Return the annotation and the default of a command's parameter."""
    option, default = OPTIONS[name]
    if name == "text":
        return Annotated[list[str] | None, typer.Argument(metavar=option.metavar, help=option.help)], None
    typer_option = typer.Option(
        name_on_command_line(name), help=option.help, metavar=option.metavar, autocompletion=_completion_of(option)
    )
    if option.many:
        return Annotated[list[option.kind], typer_option], []  # type: ignore[name-defined]
    if default is None:
        return Annotated[option.kind | None, typer_option], None
    return Annotated[option.kind, typer_option], default


def _completion_of(option: Option) -> Callable[[str], Sequence[str]] | None:
    if not option.choices:
        return None

    def complete(incomplete: str) -> Sequence[str]:
        return [choice for choice in option.choices if choice.startswith(incomplete)]

    return complete
