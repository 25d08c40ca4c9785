"""What a step of training sees of photos: their texts as vectors, and which text is true of which photo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.labels import TRUE, UNKNOWN, Photo

TEMPLATES = ("{}", "a photo of a {}", "a {}", "{} in a picture", "a close-up of {}")  # half of the names stand alone
_CAPTION, _LABEL = 0.5, 0.6  # chance of a caption where there are names too; of a label among the names
_GUESSED = 0.15  # chance that a photo's text is a name that the classifier, or its captions, found
_COMMON = 0.03  # share of the photos from which a guessed name says too little

Pairs = tuple[Tensor, Tensor]  # positive, unknown: bool[B, T]


@dataclass(frozen=True)
class Drawn:
    """T texts, the first or only ones of some photos."""

    vectors: Tensor  # f32[T, D]
    names: NDArray[np.int64]  # [T] number of the name, -1: a caption


class Examples:
    """N photos with their texts. Vectors are those of the text tower."""

    def __init__(
        self,
        photos: Sequence[Photo],
        names: Sequence[str],
        captions: NDArray[np.float32],
        named: NDArray[np.float32],
        table: NDArray[np.uint8],
    ) -> None:
        """captions f32[C, D] of all photos in their order; named f32[TEMPLATES, names, D]; table: truth_table."""
        self.photos, self.table = photos, table
        self.captions, self.named = torch.from_numpy(captions), torch.from_numpy(named)
        self.spread = self.captions.std(0)
        number = {name: i for i, name in enumerate(names)}
        ends = np.cumsum([len(photo.captions) for photo in photos])
        self.captions_of = [np.arange(end - len(p.captions), end) for end, p in zip(ends, photos, strict=True)]
        self.names_of = [np.array([number[name] for name in photo.names], np.int64) for photo in photos]
        self.number = number
        telling = (table == TRUE).sum(0) < _COMMON * len(photos)
        self._guesses = [np.flatnonzero((row == TRUE) & telling) for row in table]

    def draw(self, rng: np.random.Generator, rows: NDArray[np.int64]) -> Drawn:
        """One text for each of some photos i64[B]."""
        vectors, names = [], []
        for row in rows.tolist():
            own, said, guesses = self.names_of[row], self.captions_of[row], self._guesses[row]
            if len(guesses) and rng.random() < _GUESSED:
                name = int(rng.choice(guesses))
            elif len(said) and (not len(own) or rng.random() < _CAPTION):
                vectors.append(self.captions[rng.choice(said)])
                names.append(-1)
                continue
            else:
                labels = self.photos[row].labels
                name = int(rng.choice(own[:labels] if labels and rng.random() < _LABEL else own))
            template = 0 if rng.random() < 0.5 else int(rng.integers(1, len(TEMPLATES)))
            vectors.append(self.named[template, name])
            names.append(name)
        return Drawn(torch.stack(vectors), np.array(names))

    def pairs(self, rows: NDArray[np.int64], drawn: Drawn, owner: NDArray[np.int64]) -> Pairs:
        """Photos i64[B] against texts, whose own photo is rows[owner]: positive and unknown bool[B, T]."""
        named = drawn.names >= 0
        known = self.table[rows][:, np.where(named, drawn.names, 0)]
        positive, unknown = (known == TRUE) & named, (known == UNKNOWN) & named
        positive[owner, np.arange(len(owner))] = True
        return torch.from_numpy(positive), torch.from_numpy(unknown)

    def noisy(self, vectors: Tensor, noise: float) -> Tensor:
        """With normal noise of that share of the captions' spread."""
        return vectors + noise * self.spread * torch.randn_like(vectors)
