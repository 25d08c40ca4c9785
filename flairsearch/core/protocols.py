"""The interface of the model, for packages that must not import it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flairsearch.core.types import EncodedText, EncodedViews, Picture, PoolWeights


class Encoder(Protocol):
    """What indexing and searching need of a FLAIR model; model/lazy_encoder.py loads its parts when they are needed."""

    @property
    def device(self) -> str:
        """The device that the model runs on: cpu, mps, or cuda with or without a number."""
        ...

    @property
    def pool_weights(self) -> PoolWeights:
        """The weights of the attention pool, which re-ranking needs besides an encoded query."""
        ...

    @property
    def token_metric(self) -> NDArray[np.float32]:
        """f32[D, D]: an error e f32[D] of a stored token costs e^T metric e when codecs are trained."""
        ...

    def encode_images(self, pictures: Sequence[Picture]) -> EncodedViews:
        """Return what the index stores of N views, whose pixels are u8[S, S, 3]."""
        ...

    def encode_image_queries(self, pictures: Sequence[Picture], names: Sequence[str]) -> list[EncodedText]:
        """Return example images u8[S, S, 3] as phrases of a query, with the names of the images as texts."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> list[EncodedText]:
        """Return texts as phrases of a query."""
        ...

    def encode_prompts(self) -> list[EncodedText]:
        """Return the encoded texts of model/prompts.py, which the score predictor is fitted to."""
        ...

    def fold(self, vectors: NDArray[np.float32]) -> list[EncodedText]:
        """Return phrases for global text tokens f32[T, D], not normalised; the texts themselves are not known."""
        ...

    def unseen_words(self, text: str) -> list[str]:
        """Return the words of a text that are in no training text of the model."""
        ...
