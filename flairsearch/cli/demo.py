"""`flairsearch demo`: index photos, run queries and draw their results."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from flairsearch.cli.index import index_command
from flairsearch.cli.query import query_command


def demo_command(
    photos: Annotated[Path | None, typer.Option(help="Your own folder of photos (default: six sample photos).")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the sample photos, the index and the pictures.")] = Path("demo"),
) -> None:
    """Index photos, run three queries and draw the regions."""
    from flairsearch.cli.samples import QUERIES, copy_samples
    from flairsearch.output.formatting import short_path

    folder = photos.expanduser() if photos else copy_samples(out / "photos")
    index = str((out / ("own-index" if photos else "index")).absolute())
    typer.echo(f"$ flairsearch index {folder}")
    index_command([folder], index)
    for text in QUERIES:
        pictures = out / ("own-overlay" if photos else "overlay") / text.replace(" ", "-")
        typer.echo(f'$ flairsearch query "{text}" -k 3 --overlay {pictures}')
        query_command(text=[text], index=index, k=3, overlay=pictures)
    typer.echo(f"in the browser: {Path(sys.argv[0])} serve --open --index {short_path(index)}", err=True)
