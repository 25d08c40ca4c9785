"""Banks of texts for fitted vectors, made by an engine's encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flairsearch.shortlist.build import PredictorPolicy

if TYPE_CHECKING:
    from flairsearch.engine import Engine
    from flairsearch.rerank.many_texts import TextBatchScorer


class PromptBanks:
    """A build.MakeBank: the encoder is loaded when the first bank is made."""

    def __init__(self, engine: Engine, exhaustive_views: int) -> None:
        self._engine, self.policy = engine, PredictorPolicy(exhaustive_views=exhaustive_views)

    def __call__(self, vectors: NDArray[np.float32] | None) -> TextBatchScorer:
        """The bank of the texts with these vectors f32[T, D]; None: of all texts of model/prompts.py."""
        from flairsearch.rerank.many_texts import TextBatchScorer

        encoder = self._engine.encoder
        queries = encoder.bank() if vectors is None else encoder.fold(vectors)
        return TextBatchScorer(queries, encoder.pool_weights, encoder.device)
