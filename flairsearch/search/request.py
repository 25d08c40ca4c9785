"""One query with all its conditions, as the command line and HTTP have it: asked of an engine, or put into a URL."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from flairsearch.core.filters import Filter
from flairsearch.core.query import Query
from flairsearch.core.types import Answer

if TYPE_CHECKING:
    from flairsearch.engine import Engine

MOST_HITS = 200  # One answer over HTTP holds at most this many hits.
MOST_BODY = 32_000_000  # One request over HTTP, with its picture, has at most this many bytes.


@dataclass(frozen=True)
class Question:
    """`Engine.search`'s parameters."""

    terms: Query
    k: int = 10
    shortlist: str = "auto"
    min_score: float | None = None
    scope: Filter = field(default_factory=Filter)

    def ask(self, engine: Engine) -> Answer:
        """Raises what Engine.search raises."""
        hits = engine.search(self.terms, self.k, self.shortlist, self.min_score, self.scope)
        (ranked,) = engine.reranked
        return Answer(
            tuple(hits),
            engine.in_scope,
            ranked,
            tuple(engine.unseen_words(*self.terms.texts, *self.terms.without)),
            tuple(engine.warnings()),
            dict(engine.clock.seconds),
        )

    def parameters(self) -> list[tuple[str, str]]:
        """Those of /api/v1/search, but for k, the page and the picture itself."""
        terms, scope = self.terms, self.scope
        last = None if scope.before is None else scope.before - timedelta(seconds=1)
        size = f"{scope.sides[0]}x{scope.sides[1]}" if scope.sides else scope.larger_than
        single = {
            "min_area": terms.min_area or None,
            "shortlist": self.shortlist,
            "min_score": self.min_score,
            "folder": scope.under,
            "since": None if scope.since is None else scope.since.isoformat(),
            "until": None if last is None else last.isoformat(),
            "larger_than": size,
        }
        for picture in terms.pictures:
            single["box"] = None if picture.box is None else ",".join(map(str, picture.box))
            single["image_weight"] = picture.weight
        several = {"q": terms.texts, "exclude": terms.without, "position": terms.at, "extension": scope.extensions}
        return [
            *((name, text) for name, texts in several.items() for text in texts),
            *((name, str(value)) for name, value in single.items() if value is not None),
        ]
