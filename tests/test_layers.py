"""Which library lives where, and how long files and functions may grow; imports and the rest: pyproject.toml."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "flairsearch"
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")
HOMES = {  # third-party library -> the modules that may import it
    "PIL": {"decode", "draw", "formats", "segmentation", "terminal"},
    "faiss": {"prefilter"},
    "fastapi": {"web", "web_errors"},
    "filelock": {"store"},
    "ftfy": {"tokenizer"},
    "huggingface_hub": {"weights"},
    "numba": {"compiled", "vectors"},
    "numpy": set(MODULES)
    - {*("cli", "cli_query", "cli_eval", "cli_output", "cli_regions", "options", "engine", "errors")}
    - {
        *(
            "settings",
            "paths",
            "dates",
            "arrays",
            "limits",
            "reports",
            "status",
            "demo",
            "bank",
            "tables",
            "terms",
            "asking",
        )
    }
    - {*("annotations", "annotation_files", "box_annotations", "box_formats", "changeset", "migrations")}
    - {*("formats", "census", "watch", "terminal", "cli_index", "cli_watch", "cli_store", "cli_models", "cli_demo")}
    - {*("service", "thumbnails", "originals", "web", "wire", "guard", "metrics", "serving", "cli_serve")}
    - {"web_errors", "web_files", "wire_answers"},
    "open_clip": {"model"},
    "pillow_heif": {"formats"},
    "platformdirs": {"paths"},
    "prometheus_client": {"metrics"},
    "pydantic": {"wire", "wire_answers"},
    "rawpy": {"formats"},
    "regex": {"tokenizer"},
    "rich": {"present", "tables", "cli_store", "cli_index", "cli_query", "cli_output", "terminal"},
    "safetensors": {"tensors", "weights"},
    "starlette": {"guard", "serving", "web", "web_errors", "web_files"},
    "textual_image": {"terminal"},
    "torch": {
        "convtower",
        "encode",
        "model",
        "rerank",
        "rerank_many",
        "rerank_torch",
        "rerank_triton",
        "residence",
        "weights",
        "published",
    },
    "triton": {"rerank_triton", "triton_kernels"},
    "typing_extensions": {"wire_answers"},
    "typer": {module for module in MODULES if module.startswith("cli")} | {"options"},
    "uvicorn": {"serving"},
    "watchfiles": {"watch"},
}
SERVE = {"fastapi", "prometheus_client", "pydantic", "starlette", "typing_extensions", "uvicorn"}  # Of the extra.
COMFORT = {"pillow_heif", "rawpy", "textual_image", "watchfiles"}  # an extra each
LAZY = {
    "filelock": {"store"},
    "ftfy": {"tokenizer"},
    "torch": {"weights", "published", "rerank", "rerank_triton", "residence"},
    "pillow_heif": {"formats"},
    "rawpy": {"formats"},
    "rich": {"cli_store", "cli_index", "cli_query", "cli_output"},
    "textual_image": {"terminal"},
    "watchfiles": {"watch"},
    "huggingface_hub": {"weights"},
    "safetensors": {"weights"},
}


@cache
def parse(module: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))


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


def test_nobody_imports_the_package_root() -> None:
    for module in MODULES:
        for name, _ in imports(parse(module)):
            root, *rest = name.split(".")
            assert root != "flairsearch" or (rest and rest[0] in MODULES), f"{module}: {name} comes from the root"


def test_libraries_stay_at_home() -> None:
    for module in ("__init__", *MODULES):
        for name, inside in imports(parse(module)):
            library = name.split(".")[0]
            if library == "flairsearch" or library in sys.stdlib_module_names:
                continue
            assert module in HOMES.get(library, ()), f"{module} imports {library}"
            assert inside or module not in LAZY.get(library, ()), f"{module} must import {library} inside functions"


def test_a_command_line_without_the_server_needs_none_of_its_libraries() -> None:
    top = {"guard", "web", "web_errors", "web_files", "wire", "wire_answers", "metrics", "serving"}
    reached, todo = set(), {module for module in MODULES if module.startswith("cli")}
    while todo:
        reached |= todo
        todo = {
            name.split(".")[1]
            for module in todo
            for name, inside in imports(parse(module))
            if name.startswith("flairsearch.") and not inside
        } - reached
    assert not reached & top


def test_every_dependency_is_used() -> None:
    import tomllib

    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {"faiss-cpu": "faiss", "open_clip_torch": "open_clip", "pillow": "PIL"}
    declared = {dependency.split(">")[0] for dependency in project["dependencies"]}
    used = {name.split(".")[0] for module in MODULES for name, _ in imports(parse(module))} & HOMES.keys()
    assert {names.get(name, name) for name in declared} == used - SERVE - COMFORT - {
        "triton"
    }  # comes with torch, where it can


def test_sizes() -> None:
    for module in ("__init__", *MODULES):
        assert len((PACKAGE / f"{module}.py").read_text(encoding="utf-8").splitlines()) <= 300, module
        for node in ast.walk(parse(module)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                where = f"{module}.{node.name}"
                assert (node.end_lineno or 0) - node.lineno + 1 < 60, f"{where} is too long"
                assert node.args.kwarg is None, f"{where} takes any parameter"
