"""The records that travel between stages: frozen, with arrays for many things at once.

Shapes: N views, P patches, G grid side, D embedding, H heads, K results, Q queries.
Boxes are (left, top, right, bottom) in pixels of the upright original, half-open; arrays are [row, column].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # A command that asks a server needs these types and no arrays.
    import numpy as np
    from numpy.typing import NDArray

Box = tuple[int, int, int, int]

GLOBAL_SHARES = {"flair": 0.0, "global": 1.0, "sum": 0.5}
"""Kind of score -> the share of the global token's cosine in it; the rest is FLAIR's conditioned cosine."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A file seen on disk."""

    root: str  # The absolute path of the indexed folder.
    path: str  # The path relative to root, with / between its parts.
    size: int  # Bytes.
    mtime_ns: int

    @property
    def absolute(self) -> str:
        """The file's absolute path."""
        return f"{self.root.rstrip('/')}/{self.path}"


class IndexedFile(NamedTuple):
    """What the index remembers of a file. A tuple takes least memory, and there may be millions."""

    image: int  # The id of its image.
    size: int  # Bytes.
    mtime_ns: int


@dataclass(frozen=True)
class Frame:
    """Where a view's square lies on the upright original: maps the grid to pixels and back. All fields are pixels."""

    width: int  # Width of the upright original.
    height: int  # Height of the upright original.
    left: float  # The left edge of the view on the original; the other edges likewise.
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

    pixels: NDArray[np.uint8]  # [S, S, 3] RGB, upright.
    frame: Frame
    taken: int | None = None  # The date of its EXIF, as core/dates.clock_seconds counts it.


@dataclass(frozen=True)
class EncodedViews:
    """What the model keeps of N views."""

    pooled: NDArray[np.float16]  # [N, D] Global tokens of unit length.
    tokens: NDArray[np.float16]  # [N, P, D] Local tokens x after LayerNorm without gain.
    shift: NDArray[np.float16]  # [N, P] r = mean / sqrt(var + eps) of each local token.
    scale: NDArray[np.float16]  # [N, P] s = sqrt(var + eps); the local token itself is s (x + r).

    def part(self, rows: slice) -> EncodedViews:
        """Some of the views."""
        return EncodedViews(*(column[rows] for column in (self.pooled, self.tokens, self.shift, self.scale)))

    def only(self, i: int) -> EncodedViews:
        """The i-th view alone."""
        return self.part(slice(i, i + 1))


@dataclass(frozen=True)
class EncodedText:
    """A text, or an image to look for, as the model has it: its vector, and the vector folded into the pool."""

    text: str  # The text itself, or the name of the image.
    vector: NDArray[np.float32]  # [D] global text token, not normalised.
    u: NDArray[np.float32]  # [H, D] The logits of stored tokens x are x u + c.
    c: NDArray[np.float32]  # [H]


@dataclass(frozen=True)
class PoolWeights:
    """The value and output side of the pool, with the layer norm's gains folded in; the logits' scale and bias."""

    value: NDArray[np.float32]  # [H, d, D]
    value_bias: NDArray[np.float32]  # [H, d]
    out: NDArray[np.float32]  # [D, D]
    out_bias: NDArray[np.float32]  # [D]
    logit_scale: float  # The factor itself: exp is taken already.
    logit_bias: float
    global_share: float = 0.0  # The share of the global token's cosine in a view's score.


@dataclass(frozen=True)
class Candidates:
    """Views of a shortlist, best first."""

    views: NDArray[np.int64]  # [K] View ids.
    scores: NDArray[np.float32]  # [K] Predicted scores; infinity where none can be predicted.


@dataclass(frozen=True)
class EncodedQuery:
    """A query with its texts and images encoded."""

    phrases: tuple[EncodedText, ...]  # What to look for; at least one.
    weights: tuple[float, ...] = ()  # Of each phrase, above 0; without any, all phrases weigh alike.
    exclusions: tuple[EncodedText, ...] = ()
    positions: tuple[str, ...] = ()  # Of core/query.POSITIONS.
    min_area: float = 0.0  # The smallest region, as a share of the photo.

    @property
    def shares(self) -> NDArray[np.float32]:
        """f32[phrases]: the weights, scaled so that their sum is 1."""
        import numpy as np

        weights = np.array(self.weights or (1.0,) * len(self.phrases))
        shares: NDArray[np.float32] = (weights / weights.sum()).astype(np.float32)
        return shares

    @property
    def vectors(self) -> NDArray[np.float32]:
        """f32[phrases, D]: the phrases' vectors, not normalised."""
        import numpy as np

        return np.stack([phrase.vector for phrase in self.phrases])

    @property
    def has_conditions(self) -> bool:
        """Whether a photo that scores well may still be left out for what it shows, or where."""
        return bool(self.exclusions or self.positions or self.min_area)
