"""Hits: the photos that answer a query, each with its score and the places in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from flairsearch.core.types import Box, Frame

if TYPE_CHECKING:  # A command that asks a server has hits and no arrays.
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
    """What one phrase of a query, a text or an image, finds in a photo."""

    text: str  # The text, or the name of the image.
    score: float  # Exact; from the photo's views that answer the phrase best.
    regions: tuple[Region, ...]  # Best first.
    heat: NDArray[np.float32] | None = field(repr=False, compare=False)  # [G, G] over `frame`; a server sends none.
    frame: Frame = field(repr=False)  # Where the best view lies on the photo.


@dataclass(frozen=True)
class Hit:
    """One photo that answers a query, its score and the places in it."""

    rank: int  # From 1.
    path: str  # Absolute.
    score: float  # Weighted mean of the phrases' scores.
    score_global: float  # Weighted mean of the phrases' cosines with the global token.
    width: int  # Of the upright photo, in pixels.
    height: int  # Of the upright photo, in pixels.
    regions: tuple[Region, ...]  # Of all phrases: first the best of each.
    phrases: tuple[PhraseMatch, ...]  # In the order of the query.
    logit: float = 0.0  # FLAIR's logit of the score.
    image: int = 0  # The photo's id in the index.
    date: datetime | None = None  # Local time without a zone: what the camera wrote, else when the file was saved.

    @property
    def weakest(self) -> PhraseMatch:
        """The phrase with the lowest score."""
        return min(self.phrases, key=lambda phrase: phrase.score)

    def to_dict(self) -> HitJson:
        """The hit as JSON has it, without heat, numbers rounded to six decimals; every field is always there."""
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
    def from_dict(found: Mapping[str, Any], names: Sequence[str] | None = None) -> Hit:
        """The hit that `to_dict` gave, without heat. names: what its phrases are called, where that is known better.

        Raises KeyError, TypeError, ValueError or OverflowError when it is none.
        """
        width, height = int(found["width_px"]), int(found["height_px"])
        whole = Frame(width, height, 0, 0, width, height)
        texts = names or [str(one["text"]) for one in found["phrases"]]
        return Hit(
            rank=int(found["rank"]),
            path=str(found["path"]),
            score=float(found["score"]),
            score_global=float(found["score_global"]),
            width=width,
            height=height,
            regions=_regions_from_json(found["regions"]),
            phrases=tuple(
                PhraseMatch(text, float(one["score"]), _regions_from_json(one["regions"]), None, whole)
                for text, one in zip(texts, found["phrases"], strict=True)
            ),
            logit=float(found["logit"]),
            image=int(found["id"]),
            date=None if found["date"] is None else datetime.fromisoformat(found["date"]),
        )


def _regions_to_json(regions: Sequence[Region]) -> list[RegionJson]:
    return [{"box": list(region.box), "score": round(region.score, 6)} for region in regions]


def _regions_from_json(found: Sequence[Mapping[str, Any]]) -> tuple[Region, ...]:
    regions = []
    for one in found:
        left, top, right, bottom = map(int, one["box"])
        regions.append(Region((left, top, right, bottom), float(one["score"])))
    return tuple(regions)
