"""Train the codec of an index on its first views: fit a transform basis to their tokens."""

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
    """Return whether the codec of the index needs training, is not trained yet, and there are enough views for it."""
    is_untrained = writer.target.label == FALLBACK_CODEC != writer.settings.codec
    return is_untrained and writer.catalog.counts()[1] >= writer.limits.min_basis_views


def is_trained(writer: Writer) -> bool:
    """Return whether new segments are written in a trained codec."""
    return ":" in writer.target.label


def train_codec(writer: Writer, metric: NDArray[np.float32]) -> None:
    """Fit a basis to a sample of the views; the writer uses it for all later segments.

    metric: f32[D, D], how much an error of a token matters to the attention pool
    (core/protocols.Encoder.token_metric).
    Raises StoreError when no view is undamaged.
    """
    writer.commit()
    name, snapshot = writer.settings.codec, writer.snapshot()
    step = max(1, len(snapshot) // BASIS_SAMPLE_VIEWS)
    views = snapshot.views.id[::step][:BASIS_SAMPLE_VIEWS]
    checksums = writer.catalog.checksums(views.tolist())
    expected = np.array([checksums[view] for view in views.tolist()], np.int64)
    views = views[~snapshot.damaged(views, expected)]
    if not len(views):
        raise StoreError(f"{writer.folder} has no view that is undamaged - run flairsearch verify --repair first")
    sample = snapshot.encoded(views).tokens
    folder = writer.folder / "codecs"
    folder.mkdir(exist_ok=True)
    used_numbers = {file.stem for file in folder.glob("*.npz")} | {
        label.partition(":")[2] for _, _, label in writer.catalog.segments()
    }
    # The number of a basis whose file was lost is not used again: segments still refer to it.
    number = f"{max((int(stem) for stem in used_numbers if stem.isdigit()), default=0) + 1:06d}"
    with atomic_path(folder / f"{number}.npz") as part:
        fit_basis(sample, metric, AVERAGE_BITS[name]).save(part)
    sync_folder(folder)
    writer.use_codec(f"{name}:{number}")
