"""Mutation testing: change one operator, constant or branch of the package, and see whether the tests notice.

    python -m benchmarks.mutants draw --out mutants.json [--count 40] [--seed 0] [--package flairsearch]
    python -m benchmarks.mutants run mutants.json --out results.json [--all-tests] [--only ID ...] [--args "-n 0"]

Each mutant is written into a copy of the working tree and runs the test files whose imports lead to its module, the
nearest first, until one fails. A module that has moved since the draw is found by its content, or else by the line. A
module that has changed in its place is refused unless --map names it. A rerun continues where the results end.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from hashlib import sha256
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

ARITHMETIC_SWAPS = {
    "+": "-",
    "-": "+",
    "*": "/",
    "/": "*",
    "//": "*",
    "%": "*",
    "**": "*",
    "<<": ">>",
    ">>": "<<",
    "&": "|",
}
# A plain | is left alone, because it mostly joins types.
ARITHMETIC_SWAPS |= {f"{old}=": f"{new}=" for old, new in {**ARITHMETIC_SWAPS, "|": "&"}.items()}
SWAPS = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==", "and": "or", "or": "and"}
SWAPS |= {"in": "not in", "not in": "in", "is": "is not", "is not": "is", **ARITHMETIC_SWAPS}
OPERATOR = re.compile(rb"#[^\n]*|(not\s+in\b|is\s+not\b|[a-z]+|[^\s()#\\\w]+)")  # The first alternative skips comments.
# A condition with one of these operators is already negated by swapping the operator.
NEGATED_BY_SWAP = (ast.Not, ast.Eq, ast.NotEq, ast.In, ast.NotIn, ast.Is, ast.IsNot)
PYTEST_OPTIONS = ("-x", "-q", "-p", "no:cacheprovider")
UNTESTED_IF = re.compile(r"if .*TYPE_CHECKING:|if __name__ ==")
FIXTURE_NAMES = re.compile(r"(?m)(?:^def |\b(?=autouse=True))(\w+)")
FROM_IMPORT = re.compile(r"\bfrom ([\w.]+) import (\([^)]*\)|.*)")
Mutant = dict[str, Any]  # A record of mutants.json.


def mutable_children(node: ast.AST) -> Iterable[ast.AST]:
    """Return the children that may be changed: no annotations, assertions, texts or code that tests do not run."""
    overload = any(ast.unparse(decorator).endswith("overload") for decorator in getattr(node, "decorator_list", ()))
    if overload or isinstance(node, ast.Assert | ast.JoinedStr):
        return ()
    types = (getattr(node, "annotation", None), getattr(node, "returns", None))
    children = (child for child in ast.iter_child_nodes(node) if child not in types)
    return (child for child in children if not isinstance(child, ast.If) or not UNTESTED_IF.match(ast.unparse(child)))


class MutantFinder:
    """Finds every place in a module that can be changed."""

    def __init__(self, module: str, source: bytes) -> None:
        self.source, self.origin = source, {"id": "", "module": module, "sha256": sha256(source).hexdigest()}
        self.starts = [line.start() for line in re.finditer(b"^", source, re.M)]

    def walk(self, node: ast.AST, scope: str = "") -> Iterator[Mutant]:
        """Yield the mutants of a node and its children. scope: names of the enclosing definitions."""
        for kind, (offset, end), text in self._changes(node):
            first, last = self.source.rfind(b"\n", 0, offset) + 1, (self.source + b"\n").find(b"\n", end)
            line, column = self.source.count(b"\n", 0, offset) + 1, len(self.source[first:offset].decode()) + 1
            mutant = {"line": line, "column": column, "kind": kind, "before": self.source[offset:end].decode()}
            mutant |= {"after": text, "offset": offset, "end": end, "text": text, "scope": scope[1:]}
            yield self.origin | mutant | {"context": self.source[first:last].decode()}
        scope += f".{node.name}" if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) else ""
        for child in mutable_children(node):
            yield from self.walk(child, scope)

    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        last, column = node.end_lineno or 0, node.end_col_offset or 0
        return self.starts[node.lineno - 1] + node.col_offset, self.starts[last - 1] + column

    def _code(self, node: ast.expr) -> str:
        return self.source[slice(*self._span(node))].decode()

    def _changes(self, node: ast.AST) -> Iterator[tuple[str, tuple[int, int], str]]:
        """Yield the kind, first and last byte, and replacement of each change of a node."""
        match node:
            case ast.Compare() | ast.BoolOp() | ast.BinOp() | ast.AugAssign():
                for left, right in pairwise(part for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr)):
                    has_text = any(self._code(operand)[-1] in "\"'" for operand in (left, right))
                    for found in OPERATOR.finditer(self.source, self._span(left)[1], self._span(right)[0]):
                        old = " ".join((found[1] or b"").decode().split())
                        kind = (
                            "arithmetic"
                            if old in ARITHMETIC_SWAPS
                            else "boolean"
                            if old in ("and", "or")
                            else "comparison"
                        )
                        if old in SWAPS and not (has_text and old in ARITHMETIC_SWAPS):  # Texts support only + and %.
                            yield kind, found.span(1), SWAPS[old]
            case ast.UnaryOp(op=ast.Not()):
                yield "not", self._span(node), re.sub("^not[ \t]*", "", self._code(node))
            case ast.Constant(value=bool(value)):
                yield "flag", self._span(node), str(not value)
            case ast.Constant(value=int(value)):
                yield "integer", self._span(node), str(value + 1)
            case ast.Constant(value=float(value)):
                yield "float", self._span(node), repr(2 * value or 1.0)
            case ast.Break() | ast.Continue():
                yield "jump", self._span(node), "continue" if isinstance(node, ast.Break) else "break"
            case ast.If() | ast.IfExp() | ast.comprehension():
                for test in node.ifs if isinstance(node, ast.comprehension) else [node.test]:
                    operators = getattr(test, "ops", [getattr(test, "op", None)])
                    if len(operators) > 1 or not isinstance(operators[0], NEGATED_BY_SWAP):
                        yield "branch", self._span(test), f"not ({self._code(test)})"


def find_mutants(sources: dict[str, bytes]) -> list[Mutant]:
    """Return the mutants of all modules."""
    return [
        mutant for module, source in sources.items() for mutant in MutantFinder(module, source).walk(ast.parse(source))
    ]


def apply_mutant(source: bytes, mutant: Mutant) -> bytes:
    """Return the source of a module with the change."""
    return b"".join((source[: mutant["offset"]], mutant["text"].encode(), source[mutant["end"] :]))


def read_modules(root: Path, package: str = "") -> dict[str, bytes]:
    """Return the content of every module by its path from the root."""
    return {file.relative_to(root).as_posix(): file.read_bytes() for file in sorted((root / package).rglob("*.py"))}


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Replace a JSON file atomically."""
    part = file.with_name(f"{file.name}.part")
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    part.replace(file)


def draw(args: argparse.Namespace) -> None:
    """Draw mutants at random and write them to a file."""
    found = find_mutants(sources := read_modules(Path(), args.package))
    random.Random(args.seed).shuffle(found)
    for number, mutant in enumerate(drawn := found[: args.count], 1):
        mutant["id"], source = f"m{number:02}", sources[mutant["module"]]
        compile(apply_mutant(source, mutant), mutant["module"], "exec")
        assert ast.dump(ast.parse(source)) != ast.dump(ast.parse(apply_mutant(source, mutant))), mutant
    write_json(args.out, {"package": args.package, "seed": args.seed, "mutants": drawn})
    print(f"{len(drawn)} of {len(found):,} mutants of {len(sources)} modules")


def locate(mutant: Mutant, sources: dict[str, bytes], moved: dict[str, str]) -> Mutant | None:
    """Return the mutant at its present place; None when its line is not found, or found more than once."""
    module = moved.get(mutant["module"], mutant["module"])
    for name in (module, *sources):
        if name in sources and sha256(sources[name]).hexdigest() == mutant["sha256"]:
            return mutant | {"module": name}
    if module in sources and mutant["module"] not in moved:
        raise SystemExit(f"{module} has changed since the draw - to find it by its lines, add --map {module}={module}")
    like = find_mutants({module: sources[module]} if module in sources else sources)
    for name in ("kind", "text", "column", "context", "scope"):
        like = [other for other in like if other[name] == mutant[name]]
    return like[0] | {"id": mutant["id"]} if len(like) == 1 else None


class ImportReach:
    """Knows which test files lead to which modules by their imports."""

    def __init__(self, root: Path, package: str, tests: str) -> None:
        self.package, self.files = package, dict[str, str]()
        self.texts = {path: source.decode() for path, source in read_modules(root).items()}
        for path in self.texts:
            names = path.removesuffix(".py").removesuffix("/__init__").split("/")
            for first in range(
                len(names) if path.startswith(f"{tests}/") else 1
            ):  # Pytest may put any folder of the tests on the path.
                self.files.setdefault(".".join(names[first:]), path)
        for path in [
            path for path in self.texts if path.endswith("/__init__.py")
        ]:  # A package may re-export names of its modules.
            for module, names_text in FROM_IMPORT.findall(self.texts[path]):
                names = [f"{path[:-12].replace('/', '.')}.{name}" for name in re.findall(r"\w+", names_text)]
                self.files |= dict.fromkeys(names, self.files[module]) if module in self.files else {}
        self.direct = {path: self._named(text) for path, text in self.texts.items()}
        self.fixture_files = dict[str, set[str]]()  # Files with the fixtures of each conftest.
        for home in (path for path in self.texts if Path(path).name == "conftest.py"):
            fixtures = {file for file in self.direct[home] if "@pytest.fixture" in self.texts[file]}
            self.fixture_files[home], self.direct[home] = {home, *fixtures}, self.direct[home] - fixtures
        self.reached = {path: self._closure(path) for path in self.texts if re.match(rf"{tests}/(.*/)?test_", path)}

    def tests_of(self, module: str) -> list[str]:
        """Return the test files that lead to a module, the nearest first."""
        own_name, tests = f"test_{Path(module).name}", [test for test, files in self.reached.items() if module in files]
        return sorted(
            tests, key=lambda t: (Path(t).name != own_name, module not in self.direct[t], len(self.reached[t]))
        )

    def _closure(self, test: str) -> set[str]:
        """Return all files that a test file imports, directly or not, with those of the fixtures it uses."""
        lists = re.findall(r"(?:def \w+|usefixtures|getfixturevalue)(\([^)]*)", self.texts[test])
        asked = {"autouse", *re.findall(r"\w+", "".join(lists))}
        nearby = [
            file
            for folder in Path(test).parents
            for file in self.fixture_files.get((folder / "conftest.py").as_posix(), ())
        ]
        given = {file for file in nearby if asked & {*FIXTURE_NAMES.findall(self.texts[file])}}
        found, todo = set[str](), self.direct[test] | given
        while todo:
            found |= todo
            todo = {file for path in todo for file in self.direct[path]} - found
        return found

    def _named(self, text: str) -> set[str]:
        """Return the files that code names: in imports, in imports inside texts, or by their paths."""
        text = re.sub(r"^if TYPE_CHECKING:\n([ \t].*\n|\n)*", "", text, flags=re.M)
        words, names = re.findall(r"""["']([\w.]+)["']""", text), re.findall(r"^\s*import ([\w.]+)", text, re.M)
        names += re.findall(rf"\b{self.package}(?:\.\w+)+", text)
        names += [
            f"{module}.{name}"
            for module, names_text in FROM_IMPORT.findall(text)
            for name in re.findall(r"\w+", names_text)
        ]
        starts = re.findall(rf"f[\"']({self.package}[\w.]*\.){{", text) + [""] * ("pytest_plugins" in text)
        if "def __getattr__" not in text:  # With such a function, words in texts are no sign of imports.
            names += [start + word for start in starts for word in words]
        runs = {
            run for name in names for run in accumulate(name.split("."), "{}.{}".format)
        }  # Importing a.b also runs a.
        return {self.files[run] for run in runs & self.files.keys()} | {*words} & self.texts.keys()


def copy_tree(root: Path) -> None:
    """Copy the working tree as git sees it, with bytecode that is checked by content."""
    listed = subprocess.run(["git", "ls-files", "-coz", "--exclude-standard"], check=True, capture_output=True).stdout
    for path in map(Path, os.fsdecode(listed).split("\0")):
        if path.is_file():  # Git also lists removed files before the commit.
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, root / path)
    subprocess.run([sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash", root], check=True)


def run_python(root: Path, *command: str, timeout: float | None = None) -> tuple[int, str]:
    """Run Python in the copy with temporary caches. Returns the exit code (124 after the timeout) and the output."""
    with tempfile.TemporaryDirectory(dir=root.parent, ignore_cleanup_errors=True) as own:
        os.chmod(own, 0o755)  # Some tests run as another user.
        env = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(root), "TMPDIR": own}
        env |= {"NUMBA_CACHE_DIR": f"{own}/numba", "FLAIRSEARCH_CACHE": f"{own}/cache"}
        with open(f"{own}/said", "w") as said:
            command = (sys.executable, *command)
            child = subprocess.Popen(command, cwd=root, env=env, stdout=said, stderr=said, start_new_session=True)
        try:
            with suppress(subprocess.TimeoutExpired):
                child.wait(timeout)
        finally:
            if (code := child.poll()) is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        return 124 if code is None else code, Path(said.name).read_text(encoding="utf-8", errors="replace")


def run_tests(mutant: Mutant, root: Path, tests: list[str], args: argparse.Namespace) -> tuple[str, str]:
    """Run the tests on a mutant. Returns the outcome and a note."""
    source = (file := root / mutant["module"]).read_bytes()
    file.write_bytes(apply_mutant(source, mutant))
    code, said = run_python(
        root, "-m", "pytest", *PYTEST_OPTIONS, *shlex.split(args.args), *tests, timeout=args.timeout
    )
    file.write_bytes(source)
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", said, re.M)
    notes = {0: "", 5: "", 124: "timeout", **dict.fromkeys((2, 3, 4), "collection error")}
    note = failed[1] if failed and code == 1 else notes.get(code, f"exit code {code}")
    return {0: "survived", 5: "no tests"}.get(code, "caught"), note


def run(args: argparse.Namespace) -> None:
    """Run the tests on each mutant and write the results after each."""
    drawn, checksum = json.loads(args.mutants.read_bytes()), sha256(args.mutants.read_bytes()).hexdigest()
    done: dict[str, Any] = {"mutants": checksum, "results": {}}
    if args.out.exists() and (done := json.loads(args.out.read_bytes()))["mutants"] != checksum:
        raise SystemExit(f"{args.out} has the results of other mutants")
    results, package = done["results"], drawn["package"]
    old = {name for name, result in results.items() if result["outcome"] != "not found"}
    todo = [m for m in drawn["mutants"] if (m["id"] in args.only if args.only else m["id"] not in old)]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        os.chmod(folder, 0o755)
        copy_tree(root := Path(folder, "copy"))
        check = f"import sys, pytest, {package} as it; print(it.__file__, flush=True); sys.exit(pytest.main())"
        code, said = run_python(
            root, "-c", check, *PYTEST_OPTIONS, "--collect-only", *shlex.split(args.args), args.tests
        )
        if code or not said.startswith(str(root)):
            raise SystemExit(f"{package} must come from {root}, and pytest must find tests there, but: {said[-2000:]}")
        sources, moved = read_modules(root, package), dict(pair.split("=") for pair in args.map)
        found, reach = [(m, locate(m, sources, moved)) for m in todo], ImportReach(root, package, args.tests)
        for mutant, located in found:
            began, at = time.monotonic(), located or mutant
            tests = [args.tests] if args.all_tests else reach.tests_of(at["module"])
            untried = "no tests" if located else "not found"
            outcome, note = run_tests(located, root, tests, args) if located and tests else (untried, "")
            result = {name: at[name] for name in ("module", "line", "kind")} | {"tests": len(tests), "note": note}
            results[mutant["id"]] = result | {"outcome": outcome, "seconds": round(time.monotonic() - began, 1)}
            write_json(args.out, done)
            change = " -> ".join(" ".join(at[name].split())[:60] for name in ("before", "after"))
            print(f"{at['id']}  {at['module']}:{at['line']}  {at['kind']}  {change}  {outcome}", end="  ")
            print(f"{time.monotonic() - began:.1f} s  {note}", flush=True)
    for outcome in ("caught", "survived", "no tests", "not found"):
        print(f"{outcome:10}{sum(result['outcome'] == outcome for result in results.values()):5}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Mutation testing of the package.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("draw", help="Draw mutants.")
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument("--count", type=int, default=40)
    verb.add_argument("--package", type=os.path.normpath, default="flairsearch")
    verb.add_argument("--out", type=Path, required=True)
    verb = verbs.add_parser("run", help="Run the tests on each mutant.")
    verb.add_argument("mutants", type=Path)
    verb.add_argument("--out", type=Path, required=True)
    verb.add_argument("--tests", type=os.path.normpath, default="tests", help="Folder of the tests.")
    verb.add_argument("--all-tests", action="store_true", help="Run all tests, not only those that reach the module.")
    verb.add_argument("--only", nargs="+", metavar="ID", help="Run these mutants, whether they have results or not.")
    verb.add_argument("--timeout", type=float, default=600, help="Longest time for a mutant, in seconds.")
    verb.add_argument("--args", default="", help="More options for pytest; a single one as --args=-v.")
    verb.add_argument(
        "--map", nargs="+", default=[], metavar="OLD=NEW", help="New paths of modules that have moved or changed."
    )
    args = parser.parse_args()
    {"draw": draw, "run": run}[args.verb](args)


if __name__ == "__main__":
    main()
