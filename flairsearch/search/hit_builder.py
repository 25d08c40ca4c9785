"""Contents with what they show -> hits: one for each image that has the content, in the order of the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flairsearch.core.hits import Hit
from flairsearch.search.places import ContentMatch, IndexedImage, RankedContent


@dataclass(frozen=True)
class FoundImage:
    """An image of the result before it has its rank."""

    score: float
    image: IndexedImage
    match: ContentMatch

    @property
    def order(self) -> tuple[float, int]:
        """The best first; equal scores by image id."""
        return -self.score, self.image.image


def found_images(
    ranked: Sequence[RankedContent],
    matches: Mapping[int, ContentMatch | None],
    images: Mapping[int, Sequence[IndexedImage]],
) -> list[FoundImage]:
    """The images of contents that match."""
    return [
        FoundImage(one.score, image, match)
        for one in ranked
        if (match := matches.get(one.content)) is not None
        for image in images.get(one.content, ())
    ]


def build_hits(found: Sequence[FoundImage], offset: int) -> tuple[Hit, ...]:
    """Images in their order -> hits; the first has the rank offset + 1."""
    return tuple(
        Hit(
            rank=rank,
            path=one.image.path,
            score=one.match.score,
            score_global=one.match.score_global,
            width=one.match.width,
            height=one.match.height,
            regions=one.match.regions,
            phrases=one.match.phrases,
            logit=one.match.logit,
            image=one.image.image,
            date=one.image.date,
        )
        for rank, one in enumerate(found, offset + 1)
    )
