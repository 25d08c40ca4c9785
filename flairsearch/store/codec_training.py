"""The codec of an index is trained on its first views: a transform basis is fitted to what the tokens are like."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flairsearch.codecs.codec import AVERAGE_BITS
from flairsearch.codecs.transform import BASIS_SAMPLE_VIEWS, fit_basis
from flairsearch.core.atomic_file import atomic_path
from flairsearch.core.errors import StoreError
from flairsearch.store.segments import sync_folder
from flairsearch.store.writer import FALLBACK_CODEC, Writer


def needs_training(writer: Writer) -> bool:
    """Whether the index has enough views to train its codec on, and has not done so."""
    is_untrained = writer.target.label == FALLBACK_CODEC != writer.settings.codec
    return is_untrained and writer.catalog.counts()[1] >= writer.limits.min_basis_views


def is_trained(writer: Writer) -> bool:
    """Whether new segments are written in a trained codec."""
    return ":" in writer.target.label


def train_codec(writer: Writer, metric: NDArray[np.float32]) -> None:
    """Fit a basis to a sample of the views there are; the writer writes all later segments in it.

    metric f32[D, D]: how much an error of a token matters to the pool (core/protocols.Encoder.token_metric).
    Raises StoreError when no view is undamaged.
    """
    writer.commit()
    name, snapshot = writer.settings.codec, writer.snapshot()
    every = max(1, len(snapshot) // BASIS_SAMPLE_VIEWS)
    chosen = snapshot.views.id[::every][:BASIS_SAMPLE_VIEWS]
    checksums = writer.catalog.checksums(chosen.tolist())
    expected = np.array([checksums[view] for view in chosen.tolist()], np.int64)
    chosen = chosen[~snapshot.damaged(chosen, expected)]
    if not len(chosen):
        raise StoreError(f"{writer.folder} has no view that is undamaged - run flairsearch verify --repair first")
    sample = snapshot.encoded(chosen).tokens
    folder = writer.folder / "codecs"
    folder.mkdir(exist_ok=True)
    used = {file.stem for file in folder.glob("*.npz")} | {
        label.partition(":")[2] for _, _, label in writer.catalog.segments()
    }
    # The number of a basis whose file is lost is not used again either.
    number = f"{max((int(stem) for stem in used if stem.isdigit()), default=0) + 1:06d}"
    with atomic_path(folder / f"{number}.npz") as part:
        fit_basis(sample, metric, AVERAGE_BITS[name]).save(part)
    sync_folder(folder)
    writer.use_codec(f"{name}:{number}")
