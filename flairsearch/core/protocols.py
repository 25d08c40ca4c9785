"""What the stages ask of one another, where they must not import each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flairsearch.core.types import EncodedText, EncodedViews, Picture, PoolWeights


class Encoder(Protocol):
    """A FLAIR model, as indexing and searching need it: model/lazy_encoder.py loads its parts when they are needed."""

    @property
    def device(self) -> str:
        """Where the model's arithmetic is done: cpu, mps, or cuda with or without a number."""
        ...

    @property
    def pool_weights(self) -> PoolWeights:
        """What re-ranking needs of the model besides an encoded query."""
        ...

    @property
    def token_metric(self) -> NDArray[np.float32]:
        """f32[D, D]: e^T metric e says how much an error e of a stored token matters."""
        ...

    def encode_images(self, pictures: Sequence[Picture]) -> EncodedViews:
        """N views u8[S, S, 3] -> what the index keeps of them."""
        ...

    def encode_image_queries(self, pictures: Sequence[Picture], names: Sequence[str]) -> list[EncodedText]:
        """Images to look for, u8[S, S, 3], and what they are called -> each as a query's phrase."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> list[EncodedText]:
        """Texts -> each as a query's phrase."""
        ...

    def encode_prompts(self) -> list[EncodedText]:
        """The texts of model/prompts.py, which the score predictor is fitted to."""
        ...

    def fold(self, vectors: NDArray[np.float32]) -> list[EncodedText]:
        """Global text tokens f32[T, D], not normalised -> phrases whose texts are not known any more."""
        ...

    def unseen_words(self, text: str) -> list[str]:
        """The words of a text that are in no training text of the model."""
        ...
