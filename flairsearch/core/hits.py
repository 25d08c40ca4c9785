"""Hits: the photos that answer a query, each with its score and the places in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from flairsearch.core.types import Box, Frame

if TYPE_CHECKING:  # A query sent to a server has hits but needs no numpy.
    import numpy as np
    from numpy.typing import NDArray

    from flairsearch.core.json_types import HitJson, RegionJson


@dataclass(frozen=True)
class Region:
    """A place in a photo, and FLAIR's score of that place alone.

    box: (left, top, right, bottom) in pixels of the upright photo, half-open.
    score: cos(pool(t, tokens inside the box), t), from -1 to 1.
    """

    box: Box
    score: float


@dataclass(frozen=True)
class PhraseMatch:
    """What a photo shows of one phrase of a query; a phrase is a text or an example image."""

    text: str  # The text, or the name of the image.
    score: float  # The exact score, from the photo's views that answer the phrase best.
    regions: tuple[Region, ...]  # The regions of this phrase, best first.
    heat: NDArray[np.float32] | None = field(repr=False, compare=False)
    """f32[G, G]: the heat map of the best view, whose patches cover `frame`; None in hits of a server."""
    frame: Frame = field(repr=False)  # The position of the best view in the photo.


@dataclass(frozen=True)
class Hit:
    """One photo that answers a query, its score and the places in it."""

    rank: int  # The position in the result, from 1.
    path: str  # The absolute path of the photo.
    score: float  # The weighted mean of the phrases' scores.
    score_global: float  # The weighted mean of the phrases' cosines with the global token.
    width: int  # The width of the upright photo in pixels.
    height: int  # The height of the upright photo in pixels.
    regions: tuple[Region, ...]  # The regions of all phrases: first the best of each, then the second best, and so on.
    phrases: tuple[PhraseMatch, ...]  # The phrases in the order of the query.
    logit: float = 0.0  # FLAIR's logit of the score.
    image: int = 0  # The photo's id in the index.
    date: datetime | None = None  # Local time without a zone: from the camera, else from the file.

    @property
    def weakest(self) -> PhraseMatch:
        """The phrase with the lowest score."""
        return min(self.phrases, key=lambda phrase: phrase.score)

    def to_dict(self) -> HitJson:
        """Return the hit as JSON without heat maps; numbers have six decimals, and every field is present."""
        return {
            "rank": self.rank,
            "id": self.image,
            "path": self.path,
            "score": round(self.score, 6),
            "score_global": round(self.score_global, 6),
            "logit": round(self.logit, 6),
            "width_px": self.width,
            "height_px": self.height,
            "date": None if self.date is None else self.date.isoformat(timespec="seconds"),
            "regions": _regions_to_json(self.regions),
            "phrases": [
                {"text": phrase.text, "score": round(phrase.score, 6), "regions": _regions_to_json(phrase.regions)}
                for phrase in self.phrases
            ],
            "weakest": self.weakest.text if len(self.phrases) > 1 else None,
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any], names: Sequence[str] | None = None) -> Hit:
        """Return the hit of which `to_dict` made the values, without heat maps.

        names: the names of its phrases, in place of the texts in the values.
        Raises KeyError, TypeError, ValueError or OverflowError when the values are not those of a hit.
        """
        width, height = int(values["width_px"]), int(values["height_px"])
        frame = Frame(width, height, 0, 0, width, height)
        texts = names or [str(phrase["text"]) for phrase in values["phrases"]]
        return Hit(
            rank=int(values["rank"]),
            path=str(values["path"]),
            score=float(values["score"]),
            score_global=float(values["score_global"]),
            width=width,
            height=height,
            regions=_regions_from_json(values["regions"]),
            phrases=tuple(
                PhraseMatch(text, float(phrase["score"]), _regions_from_json(phrase["regions"]), None, frame)
                for text, phrase in zip(texts, values["phrases"], strict=True)
            ),
            logit=float(values["logit"]),
            image=int(values["id"]),
            date=None if values["date"] is None else datetime.fromisoformat(values["date"]),
        )


def _regions_to_json(regions: Sequence[Region]) -> list[RegionJson]:
    return [{"box": list(region.box), "score": round(region.score, 6)} for region in regions]


def _regions_from_json(values: Sequence[Mapping[str, Any]]) -> tuple[Region, ...]:
    regions = []
    for region in values:
        left, top, right, bottom = map(int, region["box"])
        regions.append(Region((left, top, right, bottom), float(region["score"])))
    return tuple(regions)
