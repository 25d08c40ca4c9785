"""Mutation testing: one operator, constant or branch of the package is changed, and the tests ought to notice.

    python -m benchmarks.mutants draw --out mutants.json [--count 40] [--seed 0] [--package flairsearch]
    python -m benchmarks.mutants run mutants.json --out results.json [--all-tests] [--only ID ...] [--args "-n 0"]

Each mutant is put into a copy of the working tree and meets the test files whose imports lead to its module, the
nearest first, until one fails. A module that has moved since the draw is found by its content, else by the line; one
that has changed in its place is refused unless --map names it. A rerun goes on where the results end.
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

SUMS = {"+": "-", "-": "+", "*": "/", "/": "*", "//": "*", "%": "*", "**": "*", "<<": ">>", ">>": "<<", "&": "|"}
SUMS |= {f"{old}=": f"{new}=" for old, new in {**SUMS, "|": "&"}.items()}  # a plain | is mostly of types
SWAPS = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==", "and": "or", "or": "and"}
SWAPS |= {"in": "not in", "not in": "in", "is": "is not", "is not": "is", **SUMS}
OPERATOR = re.compile(rb"#[^\n]*|(not\s+in\b|is\s+not\b|[a-z]+|[^\s()#\\\w]+)")  # it passes over comments
OPPOSED = (ast.Not, ast.Eq, ast.NotEq, ast.In, ast.NotIn, ast.Is, ast.IsNot)  # to turn one turns its whole condition
FALLBACK_CODEC = ("-x", "-q", "-p", "no:cacheprovider")
APART = re.compile(r"if .*TYPE_CHECKING:|if __name__ ==")
FIXTURES = re.compile(r"(?m)(?:^def |\b(?=autouse=True))(\w+)")
FROM = re.compile(r"\bfrom ([\w.]+) import (\([^)]*\)|.*)")
Mutant = dict[str, Any]  # it is a record of mutants.json


def parts(node: ast.AST) -> Iterable[ast.AST]:
    """What in it may be changed: no annotations, no assertions, no texts, nothing that tests do not run."""
    overload = any(ast.unparse(one).endswith("overload") for one in getattr(node, "decorator_list", ()))
    if overload or isinstance(node, ast.Assert | ast.JoinedStr):
        return ()
    types = (getattr(node, "annotation", None), getattr(node, "returns", None))
    some = (part for part in ast.iter_child_nodes(node) if part not in types)
    return (part for part in some if not isinstance(part, ast.If) or not APART.match(ast.unparse(part)))


class Places:
    """Everything in a file that can be changed."""

    def __init__(self, module: str, source: bytes) -> None:
        self.source, self.about = source, {"id": "", "module": module, "sha256": sha256(source).hexdigest()}
        self.starts = [line.start() for line in re.finditer(b"^", source, re.M)]

    def walk(self, node: ast.AST, scope: str = "") -> Iterator[Mutant]:
        for kind, (offset, end), text in self._changes(node):
            first, last = self.source.rfind(b"\n", 0, offset) + 1, (self.source + b"\n").find(b"\n", end)
            line, column = self.source.count(b"\n", 0, offset) + 1, len(self.source[first:offset].decode()) + 1
            mutant = {"line": line, "column": column, "kind": kind, "before": self.source[offset:end].decode()}
            mutant |= {"after": text, "offset": offset, "end": end, "text": text, "scope": scope[1:]}
            yield self.about | mutant | {"context": self.source[first:last].decode()}
        scope += f".{node.name}" if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) else ""
        for part in parts(node):
            yield from self.walk(part, scope)

    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        last, column = node.end_lineno or 0, node.end_col_offset or 0
        return self.starts[node.lineno - 1] + node.col_offset, self.starts[last - 1] + column

    def _code(self, node: ast.expr) -> str:
        return self.source[slice(*self._span(node))].decode()

    def _changes(self, node: ast.AST) -> Iterator[tuple[str, tuple[int, int], str]]:
        """Kind, from byte to byte, replacement."""
        match node:
            case ast.Compare() | ast.BoolOp() | ast.BinOp() | ast.AugAssign():
                for left, right in pairwise(part for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr)):
                    texts = any(self._code(one)[-1] in "\"'" for one in (left, right))
                    for found in OPERATOR.finditer(self.source, self._span(left)[1], self._span(right)[0]):
                        old = " ".join((found[1] or b"").decode().split())
                        kind = "arithmetic" if old in SUMS else "boolean" if old in ("and", "or") else "comparison"
                        if old in SWAPS and not (texts and old in SUMS):  # no operator but + and % takes texts
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
                    if len(operators) > 1 or not isinstance(operators[0], OPPOSED):
                        yield "branch", self._span(test), f"not ({self._code(test)})"


def places(sources: dict[str, bytes]) -> list[Mutant]:
    return [one for module, source in sources.items() for one in Places(module, source).walk(ast.parse(source))]


def changed(source: bytes, mutant: Mutant) -> bytes:
    return b"".join((source[: mutant["offset"]], mutant["text"].encode(), source[mutant["end"] :]))


def read(root: Path, package: str = "") -> dict[str, bytes]:
    """Path from the root -> content, of every module."""
    return {file.relative_to(root).as_posix(): file.read_bytes() for file in sorted((root / package).rglob("*.py"))}


def write(file: Path, content: dict[str, Any]) -> None:
    """Whole or not at all."""
    part = file.with_name(f"{file.name}.part")
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    part.replace(file)


def draw(args: argparse.Namespace) -> None:
    found = places(sources := read(Path(), args.package))
    random.Random(args.seed).shuffle(found)
    for number, mutant in enumerate(drawn := found[: args.count], 1):
        mutant["id"], source = f"m{number:02}", sources[mutant["module"]]
        compile(changed(source, mutant), mutant["module"], "exec")
        assert ast.dump(ast.parse(source)) != ast.dump(ast.parse(changed(source, mutant))), mutant
    write(args.out, {"package": args.package, "seed": args.seed, "mutants": drawn})
    print(f"{len(drawn)} of {len(found):,} mutants of {len(sources)} modules")


def locate(mutant: Mutant, sources: dict[str, bytes], moved: dict[str, str]) -> Mutant | None:
    """The mutant where its module is now; none where no line, or more than one, is like its own."""
    module = moved.get(mutant["module"], mutant["module"])
    for name in (module, *sources):
        if name in sources and sha256(sources[name]).hexdigest() == mutant["sha256"]:
            return mutant | {"module": name}
    if module in sources and mutant["module"] not in moved:
        raise SystemExit(f"{module} has changed since the draw - by its lines: --map {module}={module}")
    like = places({module: sources[module]} if module in sources else sources)
    for name in ("kind", "text", "column", "context", "scope"):
        like = [one for one in like if one[name] == mutant[name]]
    return like[0] | {"id": mutant["id"]} if len(like) == 1 else None


class Reach:
    """Which test files lead to which modules."""

    def __init__(self, root: Path, package: str, tests: str) -> None:
        self.package, self.files = package, dict[str, str]()
        self.texts = {path: source.decode() for path, source in read(root).items()}
        for path in self.texts:
            names = path.removesuffix(".py").removesuffix("/__init__").split("/")
            for first in range(len(names) if path.startswith(f"{tests}/") else 1):  # pytest puts any folder on the path
                self.files.setdefault(".".join(names[first:]), path)
        for path in [path for path in self.texts if path.endswith("/__init__.py")]:  # it has names of others
            for module, several in FROM.findall(self.texts[path]):
                names = [f"{path[:-12].replace('/', '.')}.{name}" for name in re.findall(r"\w+", several)]
                self.files |= dict.fromkeys(names, self.files[module]) if module in self.files else {}
        self.direct = {path: self._named(text) for path, text in self.texts.items()}
        self.given = dict[str, set[str]]()  # these files hold the fixtures of a conftest
        for home in (path for path in self.texts if Path(path).name == "conftest.py"):
            fixtures = {file for file in self.direct[home] if "@pytest.fixture" in self.texts[file]}
            self.given[home], self.direct[home] = {home, *fixtures}, self.direct[home] - fixtures
        self.reached = {path: self._closure(path) for path in self.texts if re.match(rf"{tests}/(.*/)?test_", path)}

    def tests_of(self, module: str) -> list[str]:
        """The nearest first."""
        own, near = f"test_{Path(module).name}", [test for test, files in self.reached.items() if module in files]
        return sorted(near, key=lambda t: (Path(t).name != own, module not in self.direct[t], len(self.reached[t])))

    def _closure(self, test: str) -> set[str]:
        lists = re.findall(r"(?:def \w+|usefixtures|getfixturevalue)(\([^)]*)", self.texts[test])
        asked = {"autouse", *re.findall(r"\w+", "".join(lists))}
        near = [one for folder in Path(test).parents for one in self.given.get((folder / "conftest.py").as_posix(), ())]
        given = {one for one in near if asked & {*FIXTURES.findall(self.texts[one])}}
        found, todo = set[str](), self.direct[test] | given
        while todo:
            found |= todo
            todo = {file for path in todo for file in self.direct[path]} - found
        return found

    def _named(self, text: str) -> set[str]:
        """Files that code imports, code in texts too, or speaks of by their names."""
        text = re.sub(r"^if TYPE_CHECKING:\n([ \t].*\n|\n)*", "", text, flags=re.M)
        words, names = re.findall(r"""["']([\w.]+)["']""", text), re.findall(r"^\s*import ([\w.]+)", text, re.M)
        names += re.findall(rf"\b{self.package}(?:\.\w+)+", text)
        names += [f"{module}.{name}" for module, several in FROM.findall(text) for name in re.findall(r"\w+", several)]
        starts = re.findall(rf"f[\"']({self.package}[\w.]*\.){{", text) + [""] * ("pytest_plugins" in text)
        if "def __getattr__" not in text:  # such a function imports what it is asked for
            names += [start + word for start in starts for word in words]
        runs = {run for name in names for run in accumulate(name.split("."), "{}.{}".format)}  # a.b runs a too
        return {self.files[run] for run in runs & self.files.keys()} | {*words} & self.texts.keys()


def copy(root: Path) -> None:
    """The working tree as git sees it, and bytecode that counts by content: a changed file is compiled anew."""
    listed = subprocess.run(["git", "ls-files", "-coz", "--exclude-standard"], check=True, capture_output=True).stdout
    for path in map(Path, os.fsdecode(listed).split("\0")):
        if path.is_file():  # some may be removed and not yet committed
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, root / path)
    subprocess.run([sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash", root], check=True)


def ask(root: Path, *command: str, timeout: float | None = None) -> tuple[int, str]:
    """Exit code of a Python in the copy, 124 after the timeout, and what it said; no cache outlives it."""
    with tempfile.TemporaryDirectory(dir=root.parent, ignore_cleanup_errors=True) as own:
        os.chmod(own, 0o755)  # some tests become somebody else
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


def meet(mutant: Mutant, root: Path, tests: list[str], args: argparse.Namespace) -> tuple[str, str]:
    """Outcome and note."""
    source = (file := root / mutant["module"]).read_bytes()
    file.write_bytes(changed(source, mutant))
    code, said = ask(root, "-m", "pytest", *FALLBACK_CODEC, *shlex.split(args.args), *tests, timeout=args.timeout)
    file.write_bytes(source)
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", said, re.M)
    notes = {0: "", 5: "", 124: "timeout", **dict.fromkeys((2, 3, 4), "collection error")}
    note = failed[1] if failed and code == 1 else notes.get(code, f"exit code {code}")
    return {0: "survived", 5: "no tests"}.get(code, "caught"), note


def run(args: argparse.Namespace) -> None:
    drawn, seal = json.loads(args.mutants.read_bytes()), sha256(args.mutants.read_bytes()).hexdigest()
    done: dict[str, Any] = {"mutants": seal, "results": {}}
    if args.out.exists() and (done := json.loads(args.out.read_bytes()))["mutants"] != seal:
        raise SystemExit(f"{args.out} has the results of other mutants")
    results, package = done["results"], drawn["package"]
    old = {name for name, result in results.items() if result["outcome"] != "not found"}
    todo = [one for one in drawn["mutants"] if (one["id"] in args.only if args.only else one["id"] not in old)]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        os.chmod(folder, 0o755)
        copy(root := Path(folder, "copy"))
        check = f"import sys, pytest, {package} as it; print(it.__file__, flush=True); sys.exit(pytest.main())"
        code, said = ask(root, "-c", check, *FALLBACK_CODEC, "--collect-only", *shlex.split(args.args), args.tests)
        if code or not said.startswith(str(root)):
            raise SystemExit(f"{package} must come from {root}, and pytest must find tests there, but: {said[-2000:]}")
        sources, moved = read(root, package), dict(pair.split("=") for pair in args.map)
        found, reach = [(one, locate(one, sources, moved)) for one in todo], Reach(root, package, args.tests)
        for mutant, here in found:
            began, at = time.monotonic(), here or mutant
            tests = [args.tests] if args.all_tests else reach.tests_of(at["module"])
            untried = "no tests" if here else "not found"
            outcome, note = meet(here, root, tests, args) if here and tests else (untried, "")
            result = {name: at[name] for name in ("module", "line", "kind")} | {"tests": len(tests), "note": note}
            results[mutant["id"]] = result | {"outcome": outcome, "seconds": round(time.monotonic() - began, 1)}
            write(args.out, done)
            change = " -> ".join(" ".join(at[name].split())[:60] for name in ("before", "after"))
            print(f"{at['id']}  {at['module']}:{at['line']}  {at['kind']}  {change}  {outcome}", end="  ")
            print(f"{time.monotonic() - began:.1f} s  {note}", flush=True)
    for outcome in ("caught", "survived", "no tests", "not found"):
        print(f"{outcome:10}{sum(result['outcome'] == outcome for result in results.values()):5}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Changes of the package that tests ought to notice.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("draw", help="Draw mutants.")
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument("--count", type=int, default=40)
    verb.add_argument("--package", type=os.path.normpath, default="flairsearch")
    verb.add_argument("--out", type=Path, required=True)
    verb = verbs.add_parser("run", help="Run the tests on each.")
    verb.add_argument("mutants", type=Path)
    verb.add_argument("--out", type=Path, required=True)
    verb.add_argument("--tests", type=os.path.normpath, default="tests", help="Their folder.")
    verb.add_argument("--all-tests", action="store_true", help="Not those alone that reach the module.")
    verb.add_argument("--only", nargs="+", metavar="ID", help="Run these, done or not.")
    verb.add_argument("--timeout", type=float, default=600, help="Seconds for a mutant.")
    verb.add_argument("--args", default="", help="More for pytest; a single one as --args=-v.")
    verb.add_argument("--map", nargs="+", default=[], metavar="OLD=NEW", help="Where modules are now.")
    args = parser.parse_args()
    {"draw": draw, "run": run}[args.verb](args)


if __name__ == "__main__":
    main()
