"""Options that several commands share, and their completions in a shell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, get_args

import typer

from flairsearch.core.paths import index_folder
from flairsearch.core.settings import SINGLE_VIEW_POLICIES, Device


def complete_index(incomplete: str) -> list[str]:
    """Return names of indexes for `--index`; the shell itself completes paths."""
    home = index_folder("any").parent
    try:
        return _matching(sorted(file.parent.name for file in home.glob("*/index.json")), incomplete)
    except OSError:
        return []


def complete_model(incomplete: str) -> list[str]:
    """Return names of models on this machine for `--model`."""
    from flairsearch.model import checkpoints

    return _matching([name for name, _ in checkpoints.list_models()], incomplete)


def complete_codec(incomplete: str) -> list[str]:
    """Return names of codecs for `--codec`."""
    from flairsearch.codecs.codec import CODECS

    return _matching(CODECS, incomplete)


def complete_views(incomplete: str) -> list[str]:
    """Return view policies for `--views`."""
    return _matching((*SINGLE_VIEW_POLICIES, "tiles:5", "tiles:10"), incomplete)


def complete_device(incomplete: str) -> list[str]:
    """Return devices for `--device`."""
    return _matching(get_args(Device), incomplete)


def _matching(words: Sequence[str], incomplete: str) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]


_INDEX = typer.Option(
    "--index", help="Name or folder of the index (default: default).", autocompletion=complete_index, show_default=False
)
IndexOption = Annotated[str, _INDEX]
GivenIndexOption = Annotated[str | None, _INDEX]  # None means that the user named no index.
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model", help="Model: a name, a .safetensors file or a published .pt file.", autocompletion=complete_model
    ),
]
DeviceOption = Annotated[
    str, typer.Option("--device", help="Where to compute: auto, cpu, cuda or mps.", autocompletion=complete_device)
]
