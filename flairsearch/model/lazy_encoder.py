"""The model of an index, loaded part by part: in numpy for the texts of a query, in torch for all that is more work."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flairsearch.core.errors import StoreError
from flairsearch.core.settings import IndexSettings, may_have_gpu
from flairsearch.core.types import EncodedText, EncodedViews, Picture, PoolWeights
from flairsearch.model import checkpoints

if TYPE_CHECKING:
    from flairsearch.model.encoder import TorchEncoder
    from flairsearch.model.text_encoder import TextEncoder


class LazyEncoder:
    """A core/protocols.Encoder for threads: torch is imported when the first picture, or the prompts, are encoded.

    Every method raises StoreError when the model's weights are not those of the index, and WeightsError when there is
    no such model here.
    """

    def __init__(self, folder: Path, settings: IndexSettings, model: str | Path, device: str) -> None:
        self._folder, self._settings, self._model, self._device = folder, settings, model, device
        self._loading = RLock()  # Two threads must not load the same model.

    @cached_property
    def device(self) -> str:
        """Where the model's arithmetic is done. Torch is asked only where there may be a GPU."""
        if self._device == "cpu" or (self._device == "auto" and not may_have_gpu()):
            return "cpu"
        return self.in_torch.device

    @property
    def pool_weights(self) -> PoolWeights:
        """What re-ranking needs of the model besides an encoded query."""
        return self._in_numpy.pool_weights

    @property
    def token_metric(self) -> NDArray[np.float32]:
        """f32[D, D]: e^T metric e says how much an error e of a stored token matters."""
        return self.in_torch.token_metric

    def encode_images(self, pictures: Sequence[Picture]) -> EncodedViews:
        """N views u8[S, S, 3] -> what the index keeps of them."""
        return self.in_torch.encode_images(pictures)

    def encode_image_queries(self, pictures: Sequence[Picture], names: Sequence[str]) -> list[EncodedText]:
        """Images to look for, u8[S, S, 3], and what they are called -> each as a query's phrase."""
        return self.in_torch.encode_image_queries(pictures, names)

    def encode_texts(self, texts: Sequence[str]) -> list[EncodedText]:
        """Texts -> each as a query's phrase, without torch."""
        return self._in_numpy.encode_texts(texts)

    def encode_prompts(self) -> list[EncodedText]:
        """The texts of model/prompts.py."""
        return self.in_torch.encode_prompts()

    def fold(self, vectors: NDArray[np.float32]) -> list[EncodedText]:
        """Global text tokens f32[T, D], not normalised -> phrases whose texts are not known any more."""
        return self._in_numpy.fold(vectors)

    def unseen_words(self, text: str) -> list[str]:
        """The words of a text that are in no training text of the model."""
        return self._in_numpy.unseen_words(text)

    @property
    def in_torch(self) -> TorchEncoder:
        """The model in torch, which is loaded now if it was not."""
        with self._loading:
            return self._torch_encoder

    @property
    def _in_numpy(self) -> TextEncoder:
        with self._loading:
            return self._text_encoder

    @cached_property
    def _torch_encoder(self) -> TorchEncoder:
        from flairsearch.model.encoder import TorchEncoder

        return TorchEncoder(str(self._file), self._device)

    @cached_property
    def _text_encoder(self) -> TextEncoder:
        from flairsearch.model.text_encoder import TextEncoder

        return TextEncoder(self._file)

    @cached_property
    def _file(self) -> Path:
        file = checkpoints.find(self._model, download=False)
        check_weights(self._folder, self._settings, file)
        return file.path


def check_weights(folder: Path, settings: IndexSettings, file: checkpoints.WeightsFile) -> None:
    """Raises StoreError when the index was made with other weights."""
    _, found = checkpoints.describe(file.path)
    if found != settings.weights_hash:
        raise StoreError(
            f"{folder} was made with {settings.model} (weights {settings.weights_hash[:12]}), this is {file.name} "
            f"(weights {found[:12]}) - use that model, or run flairsearch index --rebuild --model {file.name}"
        )
