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
    """Known and imported models."""
    from flairsearch.model import checkpoints

    for name, where in checkpoints.list_models():
        typer.echo(f"{name:<22} {where}")


@app.command("pull")
def models_pull(name: str) -> None:
    """Download a published model into the cache."""
    from flairsearch.model import checkpoints

    typer.echo(str(checkpoints.pull(name).path))


@app.command("import")
def models_import(
    file: Path, name: Annotated[str | None, typer.Option(help="Name to keep it under; default: the file's.")] = None
) -> None:
    """Check a checkpoint file and keep it in the cache."""
    from flairsearch.model import checkpoints

    imported = checkpoints.import_file(file, name)
    typer.echo(f"{imported.name}: {imported.path}")
