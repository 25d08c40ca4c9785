"""What travels over HTTP: parameters of requests with their limits, and answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from flairsearch.core.errors import UsageError
from flairsearch.core.filters import Filter
from flairsearch.core.query import POSITIONS, ImageExample, Query
from flairsearch.core.types import Hit
from flairsearch.output import formatting
from flairsearch.search.request import MOST_HITS
from flairsearch.serve.answer_schemas import HeatHitJson, HeatPhraseJson, SearchJson
from flairsearch.serve.worker import Found, How

MOST_TEXTS, MOST_LETTERS = 8, 1000
MOST_OFFSET = 1_000_000
MOST_ID = 2**63 - 1

_Text = Annotated[str, StringConstraints(max_length=MOST_LETTERS)]
_Short = Annotated[str, StringConstraints(max_length=100)]


class Texts(BaseModel):
    """What is looked for."""

    model_config = ConfigDict(extra="forbid", populate_by_name=False)

    q: list[_Text] = Field([], max_length=MOST_TEXTS, description="What to look for; several are phrases.")
    image: int | None = Field(None, ge=1, le=MOST_ID, description="Id of an indexed image: look for what it shows.")
    box: _Short | None = Field(None, description="The part of the picture that is meant: l,t,r,b in pixels, upright.")
    image_weight: float | None = Field(
        None, ge=0.001, le=1000, allow_inf_nan=False, description="The picture's weight, where a text weighs 1."
    )

    def example(self, picture: bytes | None, name: str) -> ImageExample | None:
        """The picture that is looked for. Raises UsageError when something is said of one that is not there."""
        if picture is None:
            if self.box is not None:
                raise UsageError("a box without a picture - give the picture too: image=ID, or POST its file")
            if self.image_weight is not None:
                raise UsageError("image_weight without a picture - give the picture too: image=ID, or POST its file")
            return None
        example = ImageExample.of(picture, self.box, 1.0 if self.image_weight is None else self.image_weight)
        return ImageExample(name, example.box, example.weight, picture)

    def terms(self, example: ImageExample | None) -> Query:
        """Raises UsageError when nothing is asked for."""
        if not self.q and example is None:
            raise UsageError("nothing to look for - give a text, q=..., or a picture: image=ID, or POST its file")
        return Query.of(self.q, picture=example)


class Search(Texts):
    """What is looked for, among which photos, and how many of them."""

    exclude: list[_Text] = Field([], max_length=MOST_TEXTS, description="What must not be where the match is.")
    position: list[_Short] = Field(
        [],
        max_length=8,
        description="Where it has to be; several must all hold.",
        json_schema_extra={"items": {"type": "string", "enum": list(POSITIONS)}},
    )
    min_area: _Short = Field("0", description="How large it has to be, as a share of the photo: 5% or 0.05.")
    k: int = Field(10, ge=1, le=MOST_HITS, description="How many hits at most.")
    offset: int = Field(0, ge=0, le=MOST_OFFSET, description="How many of the best are left out: `next` of an answer.")
    shortlist: _Short = Field("auto", description="Views ranked exactly: auto, all or a number.")
    min_score: float | None = Field(None, allow_inf_nan=False, description="Hits that score less are left out.")
    folder: Annotated[str, StringConstraints(max_length=4096)] | None = Field(
        None, description="Only photos below this folder, an absolute path."
    )
    since: _Short | None = Field(None, description="Only photos from then on: 2024, 2024-05, 2024-05-17.")
    until: _Short | None = Field(None, description="Only photos to then, with all of it.")
    larger_than: _Short | None = Field(None, description="Only these: 2MB, or 1920x1080.")
    extension: list[_Short] = Field([], max_length=50, description="Only these kinds of files: jpg, or jpg,png.")

    def terms(self, example: ImageExample | None) -> Query:
        """The same, with its conditions."""
        super().terms(example)
        return Query.of(self.q, picture=example, without=self.exclude, at=self.position, min_area=self.min_area)

    def how(self) -> How:
        """Raises UsageError when a date, size, folder or kind has no sense."""
        if self.folder is not None and not self.folder.startswith("/") and self.folder[1:3] not in (":\\", ":/"):
            raise UsageError(f"folder={self.folder[:100]!r} is no absolute path - give one of the folders in status")
        scope = Filter.of(self.folder, self.since, self.until, self.larger_than, self.extension)
        return How(self.k, self.offset, self.shortlist, self.min_score, scope or None)


class Size(BaseModel):
    """How large a picture is wanted."""

    model_config = ConfigDict(extra="forbid")

    size: int | None = Field(
        None, ge=16, le=4096, description="An upright JPEG of this long side at most, pixels; without: the original."
    )


class Side(BaseModel):
    """How large a thumbnail is wanted."""

    model_config = ConfigDict(extra="forbid")

    size: int = Field(
        256,
        description="Long side at most, pixels.",
        json_schema_extra={"enum": [256, 512]},
    )


def answer_of(answer: Found, offset: int) -> SearchJson:
    """A search's answer, as it is sent."""
    return {
        "hits": [formatting.to_dict(hit) for hit in answer.hits],
        "next": offset + len(answer.hits) if answer.more else None,
        "in_scope": answer.in_scope,
        "ranked": answer.ranked,
        "unseen": list(answer.unseen),
        "warnings": list(answer.warnings),
        "seconds": round(answer.seconds, 4),
    }


def heat_of(hit: Hit) -> HeatHitJson:
    """A hit with the heat of its phrases, as it is sent."""
    plain = formatting.to_dict(hit)
    phrases: list[HeatPhraseJson] = []
    for shown, phrase in zip(plain["phrases"], hit.phrases, strict=True):
        frame, heat = phrase.frame, [] if phrase.heat is None else phrase.heat.tolist()
        rows = [[round(value, 6) for value in row] for row in heat]
        phrases.append({**shown, "heat": rows, "view": [frame.left, frame.top, frame.right, frame.bottom]})
    return {**plain, "phrases": phrases}


def in_one_line(errors: Sequence[Any]) -> str:
    """The first of a request's validation errors, for a person."""
    first = errors[0]
    where = ".".join(str(part) for part in first["loc"][1:]) or "the request"
    text = "no such parameter" if first["type"] == "extra_forbidden" else str(first["msg"])
    return " ".join(f"{where[:100]}: {text[:200]} - see /api/v1/openapi.json".split())
