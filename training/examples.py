"""Draw texts for the photos of a training step, and tell which text is true of which photo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.labels import TRUE, UNKNOWN, Photo

# The first template is used half of the time.
TEMPLATES = ("{}", "a photo of a {}", "a {}", "{} in a picture", "a close-up of {}")
_CAPTION_CHANCE = 0.5  # Chance that a photo with captions and names gets a caption.
_LABEL_CHANCE = 0.6  # Chance that a drawn name is a label, if the photo has labels.
_GUESS_CHANCE = 0.15  # Chance of a name that the table finds true, from the classifier or captions.
_MAX_NAME_SHARE = 0.03  # A name true of a larger share of the photos is too general to be drawn from the table.

Pairs = tuple[Tensor, Tensor]  # The masks `positive` and `unknown` of image-text pairs, bool[B, T].


@dataclass(frozen=True)
class DrawnTexts:
    """T texts, one for each of T photos."""

    vectors: Tensor  # Vectors of the texts, f32[T, D].
    names: NDArray[np.int64]  # Number of each text's name, -1 for a caption, [T].


class Examples:
    """N photos with the text tower's vectors of their captions and names."""

    def __init__(
        self,
        photos: Sequence[Photo],
        names: Sequence[str],
        captions: NDArray[np.float32],
        named: NDArray[np.float32],
        table: NDArray[np.uint8],
    ) -> None:
        """Take the photos, all names, and arrays.

        captions: vectors of all captions in the order of the photos, f32[C, D].
        named: vectors of the names in each template, f32[templates, names, D].
        table: the table of `labels.truth_table`.
        """
        self.photos, self.table = photos, table
        self.captions, self.named = torch.from_numpy(captions), torch.from_numpy(named)
        self.deviation = self.captions.std(0)
        number = {name: i for i, name in enumerate(names)}
        ends = np.cumsum([len(photo.captions) for photo in photos])
        self.captions_of = [np.arange(end - len(p.captions), end) for end, p in zip(ends, photos, strict=True)]
        self.names_of = [np.array([number[name] for name in photo.names], np.int64) for photo in photos]
        self.number = number
        is_specific = (table == TRUE).sum(0) < _MAX_NAME_SHARE * len(photos)
        self._guesses = [np.flatnonzero((row == TRUE) & is_specific) for row in table]

    def draw(self, rng: np.random.Generator, rows: NDArray[np.int64]) -> DrawnTexts:
        """Draw one text for each photo of `rows` i64[B]."""
        vectors, names = [], []
        for row in rows.tolist():
            own_names, captions, guesses = self.names_of[row], self.captions_of[row], self._guesses[row]
            if len(guesses) and rng.random() < _GUESS_CHANCE:
                name = int(rng.choice(guesses))
            elif len(captions) and (not len(own_names) or rng.random() < _CAPTION_CHANCE):
                vectors.append(self.captions[rng.choice(captions)])
                names.append(-1)
                continue
            else:
                labels = self.photos[row].labels
                name = int(rng.choice(own_names[:labels] if labels and rng.random() < _LABEL_CHANCE else own_names))
            template = 0 if rng.random() < 0.5 else int(rng.integers(1, len(TEMPLATES)))
            vectors.append(self.named[template, name])
            names.append(name)
        return DrawnTexts(torch.stack(vectors), np.array(names))

    def pairs(self, rows: NDArray[np.int64], drawn: DrawnTexts, owner: NDArray[np.int64]) -> Pairs:
        """Compare photos rows i64[B] with T texts; return the masks `positive` and `unknown`, bool[B, T].

        owner: the position in `rows` of the photo each text was drawn for, i64[T].
        """
        named = drawn.names >= 0
        known = self.table[rows][:, np.where(named, drawn.names, 0)]
        positive, unknown = (known == TRUE) & named, (known == UNKNOWN) & named
        positive[owner, np.arange(len(owner))] = True
        return torch.from_numpy(positive), torch.from_numpy(unknown)

    def add_noise(self, vectors: Tensor, noise: float) -> Tensor:
        """Add normal noise, whose standard deviation is `noise` times that of the captions."""
        return vectors + noise * self.deviation * torch.randn_like(vectors)
