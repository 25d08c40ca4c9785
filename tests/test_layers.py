"""Who may import whom, which library lives where, and how large things may grow."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "flairsearch"
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")

GROUND = {"clock", "errors", "records", "settings", "scope", "terms", "tiles"}
STAGES = {
    "files",
    "decode",
    "model",
    "convtower",
    "schema",
    "within",
    "database",
    "cache",
    "basis",
    "bank",
    "views",
    "architecture",
    "weights",
    "encode",
    "text",
    "codec",
    "tokens",
    "catalog",
    "prefilter",
    "fit",
    "fitted",
    "scan",
    "compiled",
} | {
    "rerank",
    "rerank_many",
    "rerank_cpu",
    "vectors",
    "rerank_triton",
    "residence",
    "region",
    "locate",
    "present",
    "draw",
    "tables",
    "demo",
    "annotations",
    "retrieval",
    "grouping",
    "localization",
    "segmentation",
    "shelf",
    "box_annotations",
    "folding",
    "tensors",
    "tokenizer",
    "rerank_numpy",
    "rerank_torch",
    "scan_loops",
    "originals",
    "formats",
    "census",
    "watch",
    "terminal",
}
JOINS = {"store", "reader", "ingest", "query", "shortlist", "fitting", "engine"} | {
    "answer",
    "asking",
    "collage",
    "gallery",
    "evaluate",
    "evaluate_regions",
    "evaluate_masks",
    "agreement",
    "rebuild",
    "service",
    "thumbnails",
    "question",
    "remote",
}
TOP = {"options", "cli", "cli_query", "cli_eval", "cli_output", "cli_regions", "web"} | {
    "cli_serve",
    "serving",
    "guard",
    "wire",
    "metrics",
    "pages",
    "cli_index",
    "cli_watch",
    "cli_store",
    "cli_models",
    "cli_demo",
}

STAGE_TO_STAGE = {  # a stage imports no stage, but for these
    "encode": {"model", "bank", "weights", "folding"},
    "fit": {"basis"},
    "folding": {"architecture"},
    "fitted": {"fit"},
    "model": {"weights", "convtower", "architecture", "folding", "tokenizer"},
    "convtower": {"architecture"},
    "weights": {"architecture", "tensors"},
    "codec": {"basis"},
    "tokens": {"codec"},
    "catalog": {"schema", "within", "database", "views", "census"},
    "census": {"database"},
    "decode": {"formats"},
    "formats": {"files"},
    "terminal": {"decode", "draw"},
    "watch": {"files"},
    "database": {"schema"},
    "views": {"cache"},
    "rerank": {"codec", "rerank_cpu", "rerank_numpy", "rerank_torch", "rerank_triton"},
    "rerank_many": {"rerank"},
    "rerank_numpy": {"codec"},
    "text": {"weights", "folding", "tensors", "tokenizer"},
    "rerank_cpu": {"codec", "compiled", "vectors"},
    "scan": {"compiled", "scan_loops"},
    "scan_loops": {"compiled", "vectors"},
    "rerank_triton": {"codec"},
    "residence": {"rerank_triton"},
    "locate": {"region"},
    "box_annotations": {"annotations"},
    "tables": {"localization"},
}
HOMES = {  # third-party library -> the modules that may import it
    "PIL": {"decode", "draw", "formats", "segmentation", "terminal"},
    "faiss": {"prefilter"},
    "fastapi": {"web"},
    "filelock": {"store"},
    "ftfy": {"tokenizer"},
    "huggingface_hub": {"weights"},
    "numba": {"compiled", "vectors"},
    "numpy": set(MODULES)
    - {*("cli", "cli_query", "cli_eval", "cli_output", "cli_regions", "options", "engine", "errors")}
    - {*("settings", "demo", "bank", "annotations", "box_annotations", "tables", "terms", "asking")}
    - {*("formats", "census", "watch", "terminal", "cli_index", "cli_watch", "cli_store", "cli_models", "cli_demo")}
    - {*("service", "thumbnails", "originals", "web", "wire", "guard", "metrics", "pages", "serving", "cli_serve")},
    "open_clip": {"model"},
    "pillow_heif": {"formats"},
    "platformdirs": {"settings", "weights"},
    "prometheus_client": {"metrics"},
    "pydantic": {"wire"},
    "rawpy": {"formats"},
    "regex": {"tokenizer"},
    "rich": {"present", "tables", "cli_store", "cli_index", "cli_query", "cli_output", "terminal"},
    "safetensors": {"weights"},
    "starlette": {"web"},
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
    },
    "triton": {"rerank_triton"},
    "typer": {module for module in MODULES if module.startswith("cli")} | {"options"},
    "uvicorn": {"serving"},
    "watchfiles": {"watch"},
}
SERVE = {"fastapi", "prometheus_client", "pydantic", "starlette", "uvicorn"}  # of the extra; two come with fastapi
COMFORT = {"pillow_heif", "rawpy", "textual_image", "watchfiles"}  # an extra each
LAZY = {
    "filelock": {"store"},
    "ftfy": {"tokenizer"},
    "torch": {"weights", "rerank", "rerank_triton", "residence"},
    "pillow_heif": {"formats"},
    "rawpy": {"formats"},
    "rich": {"cli_store", "cli_index", "cli_query", "cli_output"},
    "textual_image": {"terminal"},
    "watchfiles": {"watch"},
    "huggingface_hub": {"weights"},
    "safetensors": {"weights"},
}


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


def ours(module: str) -> set[str]:
    """Modules of this package that a module imports."""
    return {name.split(".")[1] for name, _ in imports(parse(module)) if name.split(".")[0] == "flairsearch"}


def test_every_module_has_a_layer() -> None:
    assert set(MODULES) <= GROUND | STAGES | JOINS | TOP


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    if module in GROUND:
        allowed = GROUND  # the records and errors that settings speak of
    elif module in STAGES:
        allowed = GROUND | STAGE_TO_STAGE.get(module, set())
    elif module in JOINS:
        allowed = GROUND | STAGES | JOINS
    else:
        allowed = set(MODULES)
    assert ours(module) <= allowed


def test_ground_stands_on_itself() -> None:
    assert ours("errors") == ours("records") == set()
    assert ours("settings") <= {"errors"}
    assert ours("scope") <= {"errors"}
    assert ours("terms") <= {"errors", "records"}
    assert ours("tiles") <= {"records"}


def test_joins_have_no_circles() -> None:
    graph = {module: ours(module) - {module} for module in MODULES}
    while graph:
        free = {module for module, needs in graph.items() if not needs & graph.keys()}
        assert free, f"circle among {sorted(graph)}"
        graph = {module: needs for module, needs in graph.items() if module not in free}


@pytest.mark.parametrize("module", MODULES)
def test_nobody_imports_the_package_root(module: str) -> None:
    for name, _ in imports(parse(module)):
        assert not name.startswith("."), "absolute imports only"
        if name.split(".")[0] == "flairsearch":
            assert name.count(".") >= 1
            assert name.split(".")[1] in MODULES, f"{name} comes from the package root"


@pytest.mark.parametrize("module", ["__init__", *MODULES])
def test_libraries_stay_at_home(module: str) -> None:
    for name, inside in imports(parse(module)):
        library = name.split(".")[0]
        if library == "flairsearch" or library in sys.stdlib_module_names:
            continue
        assert library in HOMES, f"{library} has no home yet"
        assert module in HOMES[library], f"{module} imports {library}"
        if module in LAZY.get(library, ()):
            assert inside, f"{module} must import {library} inside functions only"


def test_a_command_line_without_the_server_needs_none_of_its_libraries() -> None:
    top = {"web", "wire", "metrics", "serving"}
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


@pytest.mark.parametrize("module", ["__init__", *MODULES])
def test_sizes(module: str) -> None:
    text = (PACKAGE / f"{module}.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            where = f"{module}.{node.name}"
            assert (node.end_lineno or 0) - node.lineno + 1 < 60, f"{where} is too long"
            parameters = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            command = module.startswith("cli") and node.name.endswith("_command")
            command = command or any(
                isinstance(d, ast.Call) and getattr(d.func, "attr", "") == "command" for d in node.decorator_list
            )
            kernel = any(ast.unparse(d) == "triton.jit" for d in node.decorator_list)  # pointers, strides, block sizes
            if not command and not kernel:  # its parameters are the options of a command, named in the design
                assert len([p for p in parameters if p not in ("self", "cls")]) <= 7, f"{where} takes too many"
            assert node.args.kwarg is None, f"{where} swallows **{node.args.kwarg and node.args.kwarg.arg}"


@pytest.mark.parametrize("module", MODULES)
def test_house_rules(module: str) -> None:
    """No printing below the command line, no broad except but at the named doors, no pickle, a docstring each."""
    tree = parse(module)
    assert ast.get_docstring(tree)
    assert "pickle.load" not in (PACKAGE / f"{module}.py").read_text(encoding="utf-8")
    for node in ast.walk(tree):
        if module not in TOP and isinstance(node, ast.Call):
            assert getattr(node.func, "id", "") != "print"
            assert getattr(node.func, "attr", "") != "exit"
        if isinstance(node, ast.ExceptHandler) and module not in ("decode", "web"):
            assert node.type is not None
            assert getattr(node.type, "id", "") not in ("Exception", "BaseException")
