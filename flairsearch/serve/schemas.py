"""The parameters of HTTP requests, derived from core/request.OPTIONS, and the conversion of results to JSON."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError, create_model

from flairsearch.core.errors import UsageError
from flairsearch.core.hits import Hit
from flairsearch.core.limits import MAX_INTEGER
from flairsearch.core.request import OPTIONS, SearchRequest, example_from_options
from flairsearch.serve.answer_schemas import HeatHitJson, HeatPhraseJson

if TYPE_CHECKING:
    from flairsearch.core.json_types import SearchJson
    from flairsearch.serve.worker import Page

MAX_BATCH = 32  # A body of JSON has at most this many queries.


def http_name(parameter: str) -> str:
    """Return the name of a parameter over HTTP: `text` is `q`."""
    return (OPTIONS[parameter][0].http_name if parameter in OPTIONS else None) or parameter


class Parameters(BaseModel):
    """Options of a search, as they come over HTTP."""

    model_config = ConfigDict(extra="forbid")

    @property
    def values(self) -> dict[str, Any]:
        """The options by the names of OPTIONS."""
        names = {http_name(name): name for name in OPTIONS}
        return {names[name]: value for name, value in self.model_dump().items()}

    def request(self, image: bytes | None, name: str) -> SearchRequest:
        """Return the request. image: the bytes of the example image. name: the name of the image.

        Raises UsageError when a value makes no sense.
        """
        values = self.values
        folder = values.get("folder")
        if folder is not None and not folder.startswith("/") and folder[1:3] not in (":\\", ":/"):
            raise UsageError(f"{folder[:100]!r} is no absolute path - give one of the folders in status", "folder")
        return SearchRequest.from_options(values, example_from_options(image, values, name))


def _parameters(name: str, options: Collection[str]) -> type[Parameters]:
    """Return a model of options."""
    fields: dict[str, Any] = {http_name(option): _field(option) for option in options}
    return create_model(name, __base__=Parameters, **fields)


def _field(name: str) -> tuple[Any, Any]:
    """Return the type and the Field of an option."""
    option, default = OPTIONS[name]
    if name == "image":  # Over HTTP the option is the id of an indexed image, whose file the server has.
        help_text = "Id of an indexed image: search for what it shows."
        return int | None, Field(None, ge=1, le=MAX_INTEGER, description=help_text)
    kind: Any = option.kind
    if option.kind is str:
        kind = Annotated[str, StringConstraints(max_length=option.max_length)]
    bounds: dict[str, Any] = {"ge": option.least, "le": option.most}
    if option.kind is float:
        bounds["allow_inf_nan"] = False
    arguments = {name: bound for name, bound in bounds.items() if bound is not None}
    if option.choices and not option.many:
        kind = Annotated[kind, Field(json_schema_extra={"enum": list(option.choices)})]
    if option.many:
        choices = {"items": {"type": "string", "enum": list(option.choices)}} if option.choices else {}
        arguments |= {"max_length": option.max_count, "json_schema_extra": choices or None}
        return Annotated[list[kind], BeforeValidator(_as_list)], Field([], description=option.help, **arguments)
    if option.kind is str:
        kind = Annotated[kind, BeforeValidator(_as_text)]
    optional = kind if default is not None else kind | None
    return optional, Field(default, description=option.help, **arguments)


def _as_text(value: Any) -> Any:
    """Return a number, as in `"shortlist": 300` of a JSON body, as text; other values unchanged."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _as_list(value: Any) -> Any:
    """Return one text of a JSON body as a list; other values unchanged."""
    return [value] if isinstance(value, str) else value


if TYPE_CHECKING:  # mypy cannot use a model that is made at run time as a type.
    SearchParameters = Parameters
    RegionParameters = Parameters
else:
    SearchParameters = _parameters("SearchParameters", OPTIONS)
    RegionParameters = _parameters("RegionParameters", ("text", "image", "box", "image_weight"))


class BatchParameters(BaseModel):
    """Several searches in one body: each a text or a set of options; options beside `queries` hold for all of them."""

    model_config = ConfigDict(extra="allow")

    queries: list[Any] = Field(min_length=1, max_length=MAX_BATCH)

    @property
    def searches(self) -> list[Parameters]:
        """The options of each search. Raises UsageError when they are wrong."""
        shared = self.model_extra or {}
        searches = []
        for number, query in enumerate(self.queries):
            own = {http_name("text"): query} if isinstance(query, str) else query
            if not isinstance(own, dict):
                raise UsageError(
                    "a query is a text or an object of parameters - give one of these", f"queries.{number}"
                )
            try:
                searches.append(SearchParameters.model_validate(shared | own))
            except ValidationError as error:
                raise UsageError(in_one_line(error.errors(), skip=0), f"queries.{number}") from None
        return searches


def read_batch(body: bytes) -> BatchParameters:
    """Return the searches in a JSON body. Raises UsageError when the body is not valid."""
    try:
        return BatchParameters.model_validate_json(body)
    except ValidationError as error:
        raise UsageError(in_one_line(error.errors(), skip=0)) from None


def batch_schema() -> dict[str, Any]:
    """Return the JSON schema of a body that `read_batch` reads."""
    options = SearchParameters.model_json_schema()
    queries = {
        "type": "array",
        "minItems": 1,
        "maxItems": MAX_BATCH,
        "items": {"anyOf": [{"type": "string"}, options]},
    }
    return {"type": "object", "required": ["queries"], "properties": {"queries": queries, **options["properties"]}}


class Size(BaseModel):
    """How large a photo is wanted."""

    model_config = ConfigDict(extra="forbid")

    size: int | None = Field(
        None,
        ge=16,
        le=4096,
        description="Send an upright JPEG whose long side has at most this many pixels (default: the original file).",
    )


class Side(BaseModel):
    """How large a thumbnail is wanted."""

    model_config = ConfigDict(extra="forbid")

    size: int = Field(
        256,
        description="The long side of the thumbnail has this many pixels at most.",
        json_schema_extra={"enum": [256, 512]},
    )


def search_to_json(page: Page, request: SearchRequest) -> SearchJson:
    """Return the answer to a search as JSON."""
    result = page.result
    return {
        "hits": [hit.to_dict() for hit in result],
        "next": request.offset + len(result) if page.has_more else None,
        "complete": result.complete,
        "in_scope": result.stats.views_in_filter,
        "ranked": result.stats.views_ranked,
        "unseen": list(result.stats.unseen_words),
        "warnings": list(result.warnings),
        "seconds": round(page.seconds, 4),
    }


def heat_to_json(hit: Hit) -> HeatHitJson:
    """Return a hit with the heat maps of its phrases as JSON."""
    plain = hit.to_dict()
    phrases: list[HeatPhraseJson] = []
    for phrase_json, phrase in zip(plain["phrases"], hit.phrases, strict=True):
        frame, heat = phrase.frame, [] if phrase.heat is None else phrase.heat.tolist()
        rows = [[round(value, 6) for value in row] for row in heat]
        phrases.append({**phrase_json, "heat": rows, "view": [frame.left, frame.top, frame.right, frame.bottom]})
    return cast("HeatHitJson", {**plain, "phrases": phrases})


def in_one_line(errors: Sequence[Any], skip: int = 1) -> str:
    """Return the first validation error as one line. skip: the first parts of its location to leave out."""
    first: Mapping[str, Any] = errors[0]
    where = ".".join(str(part) for part in first["loc"][skip:]) or "the request"
    text = "no such parameter" if first["type"] == "extra_forbidden" else str(first["msg"])
    return " ".join(f"{where[:100]}: {text[:200]} - see /api/v1/openapi.json".split())
