"""`flairsearch models`: list, download and import models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="List, download and import models.", no_args_is_help=True, add_completion=False, rich_markup_mode=None
)


@app.command("list")
def models_list() -> None:
    """List the bundled, published and imported models."""
    from flairsearch.model import checkpoints

    for name, where in checkpoints.list_models():
        typer.echo(f"{name:<22} {where}")


@app.command("pull")
def models_pull(name: Annotated[str, typer.Argument(help="A published model of `flairsearch models list`.")]) -> None:
    """Download a published model into the cache."""
    from flairsearch.model import checkpoints

    typer.echo(str(checkpoints.pull(name).path))


@app.command("import")
def models_import(
    file: Annotated[Path, typer.Argument(help="A .safetensors or published .pt file.")],
    name: Annotated[str | None, typer.Option(help="Name of the model (default: the file's name).")] = None,
) -> None:
    """Check a model file and copy it to the cache."""
    from flairsearch.model import checkpoints

    imported = checkpoints.import_file(file, name)
    typer.echo(f"{imported.name}: {imported.path}")
