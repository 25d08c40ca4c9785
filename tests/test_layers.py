"""Which library lives in which room, and how long files and functions may grow; imports of rooms: pyproject.toml."""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "flairsearch"
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
NUMERIC = ("codecs/", "core/", "evaluate/", "images/", "indexing/", "model/", "output/", "regions/", "rerank/")
HOMES = {  # Each third-party library, and the rooms or modules that may import it.
    "PIL": ("images/", "output/overlay.py", "evaluate/segmentation.py", "cli/thumbnails.py"),
    "faiss": ("shortlist/faiss_index.py",),
    "fastapi": ("serve/",),
    "filelock": ("store/",),
    "ftfy": ("model/tokenizer.py",),
    "huggingface_hub": ("model/checkpoints.py",),
    "numba": ("core/numba_runtime.py", "rerank/", "shortlist/"),
    "numpy": (*NUMERIC, "search/", "shortlist/", "store/"),
    "open_clip": ("model/flair.py",),
    "pillow_heif": ("images/formats.py",),
    "platformdirs": ("core/paths.py",),
    "prometheus_client": ("serve/metrics.py",),
    "pydantic": ("serve/",),
    "rawpy": ("images/formats.py",),
    "regex": ("model/tokenizer.py",),
    "rich": ("output/", "evaluate/tables.py", "cli/"),
    "safetensors": ("model/",),
    "starlette": ("serve/",),
    "textual_image": ("cli/thumbnails.py",),
    "torch": ("model/", "rerank/"),
    "triton": ("rerank/",),
    "typer": ("cli/",),
    "uvicorn": ("serve/server.py",),
    "watchfiles": ("indexing/watch.py",),
}
SERVE = {
    "fastapi",
    "prometheus_client",
    "pydantic",
    "starlette",
    "uvicorn",
}  # The extra `serve` brings these.
COMFORT = {"pillow_heif", "rawpy", "textual_image", "watchfiles"}  # Each of these is an extra of its own.
HEAVY = {"torch", "open_clip", "huggingface_hub", "faiss", "rich", "fastapi", "watchfiles"}


@cache
def parse(module: str) -> ast.Module:
    return ast.parse((PACKAGE / module).read_text(encoding="utf-8"))


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(node: ast.AST, inside: bool = False) -> Iterator[tuple[str, bool]]:
    """(dotted name, whether inside a function) of every import that runs; `from a import b` gives `a.b`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, inside) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from ((f"{'.' * child.level}{child.module or ''}.{alias.name}", inside) for alias in child.names)
        elif _is_type_checking(child):
            continue
        else:
            yield from imports(child, inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))


def file_of(name: str) -> str | None:
    """`flairsearch.room.module.name` -> `room/module.py`."""
    parts = name.split(".")[1:]
    found = (f"{'/'.join(parts[:size])}.py" for size in range(len(parts), 0, -1))
    return next((file for file in found if file in MODULES), None)


def test_nobody_imports_the_package_root() -> None:
    for module in MODULES:
        for name, _ in imports(parse(module)):
            assert not name.startswith("flairsearch.") or file_of(name), f"{module}: {name} is no module's"


def test_rooms_export_nothing() -> None:
    for module in MODULES:
        if module.endswith("/__init__.py"):
            assert len(parse(module).body) == 1, f"{module} has more than a docstring"


def test_libraries_stay_at_home() -> None:
    for module in MODULES:
        for name, _ in imports(parse(module)):
            library = name.split(".")[0]
            if library != "flairsearch" and library not in sys.stdlib_module_names:
                assert module.startswith(HOMES.get(library, ())), f"{module} imports {library}"


def at_import(*roots: str) -> set[str]:
    """Modules, and libraries, that importing these modules imports at once."""
    reached, todo = set[str](), set(roots)
    while todo:
        reached |= todo
        names = {name for module in todo if module in MODULES for name, inside in imports(parse(module)) if not inside}
        todo = {file_of(name) or name.split(".")[0] for name in names} - reached
    return reached


def test_the_short_way_loads_nothing_heavy() -> None:
    verbs = {module for module in MODULES if module.startswith("cli/")} - {"cli/thumbnails.py"}
    assert not at_import(*verbs) & (HEAVY | SERVE)
    query = {"engine.py", "search/searcher.py", "model/text_encoder.py", "output/formatting.py", "serve/client.py"}
    assert not at_import(*query) & (HEAVY | SERVE)


def test_every_dependency_is_used() -> None:
    import tomllib

    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {"faiss-cpu": "faiss", "open_clip_torch": "open_clip", "pillow": "PIL"}
    declared = {dependency.split(">")[0] for dependency in project["dependencies"]}
    used = {name.split(".")[0] for module in MODULES for name, _ in imports(parse(module))} & HOMES.keys()
    # Triton comes with torch, where it can.
    assert {names.get(name, name) for name in declared} == used - SERVE - COMFORT - {"triton"}


def test_records_are_frozen() -> None:
    """Values that several rooms share do not change after they are made."""
    for module in MODULES:
        for node in ast.walk(parse(module)) if module.startswith(("core/", "evaluate/results")) else ():
            for decorator in getattr(node, "decorator_list", ()):
                if "dataclass" in ast.unparse(decorator):
                    assert "frozen=True" in ast.unparse(decorator), f"{module}: {ast.unparse(node)[:80]}"


# Options of a search are defined once (core/option.py); these functions pass them on without their names.
PASS_OPTIONS_ON = {
    "cli/option_parameters.py: run",
    "core/request.py: of",
    "core/option.py: option",
    "engine.py: search",
    "engine.py: search_many",
}


def test_sizes() -> None:
    for module in MODULES:
        assert len((PACKAGE / module).read_text(encoding="utf-8").splitlines()) <= 300, module
        for node in ast.walk(parse(module)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                where = f"{module}: {node.name}"
                # The options of a command are its parameters: its body alone counts.
                first = node.body[0].lineno if node.name.endswith("_command") else node.lineno
                assert (node.end_lineno or 0) - first + 1 <= 50, f"{where} is too long"
                assert node.args.kwarg is None or where in PASS_OPTIONS_ON, f"{where} takes any parameter"


PROPER_NAMES = {"asyncio", "einsum", "mypy", "numpy", "torch", "uvicorn"}  # A sentence may begin with one of these.
DIRECTIVE = re.compile(r"(noqa|type:|ruff:|mypy:|pragma|fmt:|-- )")


def sentences(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of every comment; a comment over several lines is one."""
    line, text, alone = 0, "", False
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type != tokenize.COMMENT:
            continue
        is_alone = token.line.lstrip().startswith("#")
        if is_alone and alone and token.start[0] == line + 1:
            line, text = line + 1, f"{text} {token.string.lstrip('# ')}"
            continue
        if text:
            yield line, text
        line, text, alone = token.start[0], token.string.lstrip("#: "), is_alone
    if text:
        yield line, text


def test_a_comment_is_a_sentence() -> None:
    """It begins with a capital letter, or a name or a number, and ends with a full stop."""
    for module in MODULES:
        for line, comment in sentences(PACKAGE / module):
            text = re.sub(r"(noqa: \w+( - )?|type: ignore\[[^\]]*\][ #-]*)", "", comment).strip()
            text = re.sub(r"^\w*\[[^\]]*\][:,]? *", "", text)  # The type and shape of an array may come first.
            if not text or DIRECTIVE.match(text):
                continue
            first = text.split()[0]
            is_name = not first.isalpha() or len(first) == 1 or first in PROPER_NAMES
            assert first[0].isupper() or is_name or text != comment, f"{module}:{line}: {comment}"
            assert text.endswith((".", "?", ":", ")", "`")), f"{module}:{line}: {comment}"
