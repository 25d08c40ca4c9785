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
    """An image file on disk, as a walk over the folders found it."""

    root: str  # The absolute path of the indexed folder.
    path: str  # The path relative to root, with / between its parts.
    size: int  # The size in bytes.
    mtime_ns: int  # The time of modification: nanoseconds since 1970, UTC.

    @property
    def absolute(self) -> str:
        """The file's absolute path."""
        return f"{self.root.rstrip('/')}/{self.path}"


class IndexedFile(NamedTuple):
    """What the index stores of a file; a tuple, since there may be millions and it needs the least memory."""

    image: int  # The id of its image.
    size: int  # The size in bytes.
    mtime_ns: int  # The time of modification: nanoseconds since 1970, UTC.


@dataclass(frozen=True)
class Frame:
    """The position of a view's square on the upright original; converts between them. All fields are in pixels."""

    width: int  # Width of the upright original.
    height: int  # Height of the upright original.
    left: float  # The left edge of the view on the original.
    top: float  # The top edge.
    right: float  # The right edge.
    bottom: float  # The bottom edge.

    def to_pixels(self, left: float, top: float, right: float, bottom: float) -> Box:
        """Convert a box in view coordinates (0 to 1 across the square) to pixels of the original, at least 1 x 1."""
        wide, high = self.right - self.left, self.bottom - self.top
        x0 = min(max(round(self.left + left * wide), 0), self.width - 1)
        y0 = min(max(round(self.top + top * high), 0), self.height - 1)
        x1 = min(max(round(self.left + right * wide), x0 + 1), self.width)
        y1 = min(max(round(self.top + bottom * high), y0 + 1), self.height)
        return x0, y0, x1, y1

    def to_view(self, box: Sequence[float]) -> tuple[float, float, float, float]:
        """Convert edges in pixels of the original to view coordinates, which exceed 0 to 1 outside of the view."""
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

    pixels: NDArray[np.uint8]  # u8[S, S, 3]: RGB, upright.
    frame: Frame
    taken: int | None = None  # The date in the photo's EXIF as core/dates.clock_seconds; None if there is none.


@dataclass(frozen=True)
class EncodedViews:
    """The model's output for N views, as the index stores it."""

    pooled: NDArray[np.float16]  # f16[N, D]: global tokens of unit length.
    tokens: NDArray[np.float16]  # f16[N, P, D]: local tokens x after LayerNorm without gain.
    shift: NDArray[np.float16]  # f16[N, P]: r = mean / sqrt(var + eps) of each local token.
    scale: NDArray[np.float16]  # f16[N, P]: s = sqrt(var + eps); the local token itself is s (x + r).

    def part(self, rows: slice) -> EncodedViews:
        """Return the views of a slice."""
        return EncodedViews(*(column[rows] for column in (self.pooled, self.tokens, self.shift, self.scale)))

    def only(self, i: int) -> EncodedViews:
        """Return the i-th view alone."""
        return self.part(slice(i, i + 1))


@dataclass(frozen=True)
class EncodedText:
    """A text or an example image after encoding: its vector, and the vector folded into the attention pool."""

    text: str  # The text itself, or the name of the image.
    vector: NDArray[np.float32]  # f32[D]: the global text token, not normalised.
    u: NDArray[np.float32]  # f32[H, D]: the attention logits of stored tokens x are x u + c.
    c: NDArray[np.float32]  # f32[H]: see u.


@dataclass(frozen=True)
class PoolWeights:
    """The value and output weights of the attention pool, with the layer norm's gain folded in; scale and bias."""

    value: NDArray[np.float32]  # f32[H, d, D]: the value projection of each head, d = D / H.
    value_bias: NDArray[np.float32]  # f32[H, d]: the bias of the value projection.
    out: NDArray[np.float32]  # f32[D, D]: the output projection.
    out_bias: NDArray[np.float32]  # f32[D]: the bias of the output projection.
    logit_scale: float  # A logit is logit_scale x score + logit_bias; exp is already applied to the scale.
    logit_bias: float  # See logit_scale.
    global_share: float = 0.0  # The share of the global token's cosine in a view's score.


@dataclass(frozen=True)
class Candidates:
    """Views of a shortlist, best first."""

    views: NDArray[np.int64]  # i64[K]: view ids.
    scores: NDArray[np.float32]  # f32[K]: predicted scores; infinity for views without a prediction.


@dataclass(frozen=True)
class EncodedQuery:
    """A query with its texts and images encoded."""

    phrases: tuple[EncodedText, ...]  # What to look for; at least one phrase.
    weights: tuple[float, ...] = ()  # The weight of each phrase, above 0; if empty, all weights are equal.
    exclusions: tuple[EncodedText, ...] = ()  # What must not be shown where the phrases are found.
    positions: tuple[str, ...] = ()  # The members of core/query.POSITIONS that must all hold.
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
        """Whether the query has conditions: a photo that does not meet them is left out, however well it scores."""
        return bool(self.exclusions or self.positions or self.min_area)
