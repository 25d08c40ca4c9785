"""The nouns that travel between stages. Frozen; arrays for many things at once, objects only at the edge.

Shapes: N views, P patches, G grid side, D embedding, H heads, K results, Q queries.
Boxes are (left, top, right, bottom) in pixels of the upright original, half-open; arrays are [row, column].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # a command that asks a server has hits, and no arrays
    import numpy as np
    from numpy.typing import NDArray

Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A file seen on disk."""

    root: str  # absolute folder that was asked for
    path: str  # relative to root, with / between the parts
    size: int  # bytes
    mtime_ns: int

    @property
    def absolute(self) -> str:
        """The file's whole path."""
        return f"{self.root.rstrip('/')}/{self.path}"


class IndexedFile(NamedTuple):
    """What the index remembers of a file; a tuple, as there is one for each of a million files."""

    image: int  # id
    size: int  # bytes
    mtime_ns: int


@dataclass(frozen=True)
class Frame:
    """Where a view's square lies on the upright original; maps the grid to pixels and back."""

    width: int  # of the upright original, pixels
    height: int
    left: float  # the part of the original that the view shows, pixels
    top: float
    right: float
    bottom: float

    def to_pixels(self, left: float, top: float, right: float, bottom: float) -> Box:
        """A box in view coordinates (0 to 1 across the square) -> whole pixels of the original, at least 1 x 1."""
        wide, high = self.right - self.left, self.bottom - self.top
        x0 = min(max(round(self.left + left * wide), 0), self.width - 1)
        y0 = min(max(round(self.top + top * high), 0), self.height - 1)
        x1 = min(max(round(self.left + right * wide), x0 + 1), self.width)
        y1 = min(max(round(self.top + bottom * high), y0 + 1), self.height)
        return x0, y0, x1, y1

    def to_view(self, box: Sequence[float]) -> tuple[float, float, float, float]:
        """Edges in pixels of the original -> view coordinates; outside of 0..1 where the view does not reach."""
        wide, high = self.right - self.left, self.bottom - self.top
        left, top, right, bottom = box
        return (
            (left - self.left) / wide,
            (top - self.top) / high,
            (right - self.left) / wide,
            (bottom - self.top) / high,
        )


@dataclass(frozen=True)
class Picture:
    """One decoded view."""

    pixels: NDArray[np.uint8]  # [S, S, 3] RGB, upright
    frame: Frame
    taken: int | None = None  # when, as its EXIF says: dates.clock_seconds


@dataclass(frozen=True)
class EncodedViews:
    """What the model keeps of N views."""

    pooled: NDArray[np.float16]  # [N, D] global tokens, unit length
    tokens: NDArray[np.float16]  # [N, P, D] local tokens, LayerNorm-ed without gain
    shift: NDArray[np.float16]  # [N, P] r = mean / sqrt(var + eps) of each local token
    scale: NDArray[np.float16]  # [N, P] s = sqrt(var + eps); local token = s (x + r)

    def part(self, rows: slice) -> EncodedViews:
        """Some of the views."""
        return EncodedViews(*(column[rows] for column in (self.pooled, self.tokens, self.shift, self.scale)))

    def only(self, i: int) -> EncodedViews:
        """The i-th view alone."""
        return self.part(slice(i, i + 1))


@dataclass(frozen=True)
class EncodedText:
    """A text and its folded form."""

    text: str
    vector: NDArray[np.float32]  # [D] global text token, not normalised
    u: NDArray[np.float32]  # [H, D]
    c: NDArray[np.float32]  # [H]


@dataclass(frozen=True)
class PoolWeights:
    """The value and output side of the pool, gains folded in; and the logits' scale and bias."""

    value: NDArray[np.float32]  # [H, d, D]
    value_bias: NDArray[np.float32]  # [H, d]
    out: NDArray[np.float32]  # [D, D]
    out_bias: NDArray[np.float32]  # [D]
    logit_scale: float  # the factor itself, exp already taken
    logit_bias: float
    global_share: float = 0.0  # of the global token's cosine in a view's score; the rest is the conditioned one's


@dataclass(frozen=True)
class Candidates:
    """The prefilter's shortlist, best first."""

    views: NDArray[np.int64]  # [K] view ids
    scores: NDArray[np.float32]  # [K] cosine of the global token and the text


@dataclass(frozen=True)
class EncodedQuery:
    """What a query asks for, folded: phrases that are wanted, and what must not be where they are found."""

    phrases: tuple[EncodedText, ...]  # one at least
    weights: tuple[float, ...] = ()  # of each phrase, > 0; none given: all alike
    without: tuple[EncodedText, ...] = ()
    at: tuple[str, ...] = ()  # of core/query.PLACES
    min_area: float = 0.0  # of a region, as a share of the photo

    @property
    def shares(self) -> NDArray[np.float32]:
        """Of each phrase in the score: its weight, where all together are 1."""
        import numpy as np

        weights = np.array(self.weights or (1.0,) * len(self.phrases))
        shares: NDArray[np.float32] = (weights / weights.sum()).astype(np.float32)
        return shares

    @property
    def vectors(self) -> NDArray[np.float32]:
        """[phrases, D], as the model gives them."""
        import numpy as np

        return np.stack([phrase.vector for phrase in self.phrases])

    @property
    def narrows(self) -> bool:
        """Whether a photo that answers well may still be left out for what it shows where."""
        return bool(self.without or self.at or self.min_area)


@dataclass(frozen=True)
class Ranking:
    """A content that answers well, with those of its views that were scored."""

    content: int  # id
    views: NDArray[np.int64]  # [V] view ids
    scores: NDArray[np.float32]  # [V, phrases] exact
    score: float  # weighted mean of what it scores for each phrase: search/aggregation.Grouped


@dataclass(frozen=True)
class Region:
    """A place in a photo; the score is FLAIR's of that place alone: cos(pool(t, tokens inside), t), -1 to 1."""

    box: Box
    score: float


@dataclass(frozen=True)
class Phrase:
    """What one of a query's texts or pictures finds in a hit."""

    text: str  # or the name of the picture's file
    score: float  # exact; of the photo's views that answer it best (search/aggregation.py)
    regions: tuple[Region, ...]  # best first; from all views of the photo that were looked at
    heat: NDArray[np.float32] | None = field(
        repr=False
    )  # [G, G] regions/boxes.find_heat over that view; a server sends none
    frame: Frame = field(repr=False)  # of that view


@dataclass(frozen=True)
class Hit:
    """What the user gets: one photo, its score and the places in it."""

    rank: int  # from 1
    path: str  # absolute
    score: float  # weighted mean of the phrases' scores
    score_global: float  # the same mean of the cosines of the global token
    width: int  # pixels, upright
    height: int
    regions: tuple[Region, ...]  # of all phrases: the best of each first
    phrases: tuple[Phrase, ...]  # in the order of the query
    logit: float = 0.0
    image: int = 0  # its id in the index
    date: datetime | None = None  # local, no zone: what the camera wrote, else when the file was saved

    @property
    def weakest(self) -> Phrase:
        """The phrase that this photo answers least."""
        return min(self.phrases, key=lambda phrase: phrase.score)


@dataclass(frozen=True)
class Answer:
    """All that a query's asker is told."""

    hits: tuple[Hit, ...] = ()
    in_scope: int = 0  # views
    ranked: int = 0  # of them, exactly
    unseen: tuple[str, ...] = ()  # words that the model was not trained on
    warnings: tuple[str, ...] = ()  # one line each: what of the index cannot be searched
    seconds: dict[str, float] = field(default_factory=dict)  # by part of the work
