"""Load the model of an index on demand: in torch for pictures, in numpy for the texts of a query."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from flairsearch.core.errors import StoreError
from flairsearch.core.settings import IndexSettings, may_have_gpu
from flairsearch.model import checkpoints

if TYPE_CHECKING:
    from flairsearch.model.encoder import Encoder
    from flairsearch.model.text_encoder import TextEncoder


class ModelSource:
    """Makes the encoders of an engine."""

    def __init__(self, folder: Path, settings: IndexSettings, model: str | Path, device: str) -> None:
        self._folder, self._settings, self._model, self._device = folder, settings, model, device

    def encoder(self) -> Encoder:
        """Load the model in torch.

        Raises StoreError when its weights are not those of the index.
        """
        from flairsearch.model.encoder import Encoder

        return Encoder(str(self._file), self._device)

    def texts(self) -> TextEncoder:
        """Load the text tower in numpy.

        Raises StoreError when its weights are not those of the index.
        """
        from flairsearch.model.text_encoder import TextEncoder

        return TextEncoder(self._file)

    def device_without_torch(self) -> str | None:
        """Return the device if it is known without importing torch, else None."""
        return "cpu" if self._device == "cpu" or (self._device == "auto" and not may_have_gpu()) else None

    @cached_property
    def _file(self) -> Path:
        file = checkpoints.find(self._model, download=False)
        check_weights(self._folder, self._settings, file)
        return file.path


def check_weights(folder: Path, settings: IndexSettings, file: checkpoints.WeightsFile) -> None:
    """Raise StoreError when the index was made with other weights."""
    _, weights_hash = checkpoints.describe(file.path)
    if weights_hash != settings.weights_hash:
        raise StoreError(
            f"{folder} was made with {settings.model} (weights {settings.weights_hash[:12]}), this is {file.name} "
            f"(weights {weights_hash[:12]}) - use that model, or run flairsearch index --rebuild --model {file.name}"
        )
