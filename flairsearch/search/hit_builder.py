"""Turn contents and their matches into hits: one hit for each image that has the content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flairsearch.core.hits import Hit
from flairsearch.search.places import ContentMatch, IndexedImage, RankedContent


@dataclass(frozen=True)
class FoundImage:
    """An image of the result that has no rank yet."""

    score: float
    image: IndexedImage
    match: ContentMatch

    @property
    def order(self) -> tuple[float, int]:
        """The sort key: best score first, equal scores by image id."""
        return -self.score, self.image.image


def found_images(
    ranked: Sequence[RankedContent],
    matches: Mapping[int, ContentMatch | None],
    images: Mapping[int, Sequence[IndexedImage]],
) -> list[FoundImage]:
    """Return the images of all contents that have a match.

    matches: by content id; None if the content does not meet the conditions. images: by content id.
    """
    return [
        FoundImage(content.score, image, match)
        for content in ranked
        if (match := matches.get(content.content)) is not None
        for image in images.get(content.content, ())
    ]


def build_hits(found: Sequence[FoundImage], offset: int) -> tuple[Hit, ...]:
    """Return the images as hits, in the same order; the first has the rank offset + 1."""
    return tuple(
        Hit(
            rank=rank,
            path=found_image.image.path,
            score=found_image.match.score,
            score_global=found_image.match.score_global,
            width=found_image.match.width,
            height=found_image.match.height,
            regions=found_image.match.regions,
            phrases=found_image.match.phrases,
            logit=found_image.match.logit,
            image=found_image.image.image,
            date=found_image.image.date,
        )
        for rank, found_image in enumerate(found, offset + 1)
    )
