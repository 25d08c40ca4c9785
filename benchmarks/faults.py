"""Faults on purpose: what an index keeps when a command is killed, the disk is full, or a file is damaged.

    python -m benchmarks.faults [--points 200] [--seed 0] [--work DIR]

Each command (add, rescan, forget, compact, two conversions, growing into a basis, repair) runs in a process of its own
with the tests' fake encoder. There every write, rename, removal and fsync counts as an event, SQLite's own writes
too, and the process kills itself with SIGKILL at event number n, drawn by the seed over the whole run; half of the
writes it dies in are left torn. Then the index must open, verify clean, answer right and hold all that was reported as
committed, and the same command, run again, must come to the state of a run that nobody disturbed. The other faults
have their own lines in the second table. Sizes are set so small that a dozen photos make merges of merges, and every
command that adds photos writes the caches of its last state.

A kill is not a power cut: what a process has written survives it, synced or not. For that, every rename is looked at:
the file must be synced before it and the folder before the transaction that speaks of the file.
"""

from __future__ import annotations

import argparse
import ctypes
import io
import json
import os
import random
import resource
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partialmethod, wraps
from itertools import cycle
from pathlib import Path

import filelock  # noqa: F401 - before a child becomes somebody who may not read it
import numpy as np

from flairsearch.core.errors import FlairSearchError, StoreError, UsageError
from flairsearch.core.limits import STORE_LIMITS, WRITE_LIMITS, IngestLimits, StoreLimits, WriteLimits
from flairsearch.core.settings import FORMAT_VERSION, IndexSettings
from flairsearch.engine import Engine
from flairsearch.images.decoding import content_hash
from flairsearch.indexing import pipeline, repair  # noqa: F401 - Engine imports them late
from flairsearch.indexing.lifecycle import create_index, open_settings
from flairsearch.store.catalog import Catalog
from flairsearch.store.database import Database
from flairsearch.store.derived_files import checksum_matches
from flairsearch.store.snapshot import Snapshot
from flairsearch.store.writer import Writer
from tests.support.fake import PATCHES, FakeEncoder, expected_score, fake_settings, paint_red

ROOT = Path(__file__).resolve().parents[1]
NOBODY = 65534
SOFT = 5.0
LITTER = "left over"
NEAR = {"fp16": 0.01, "int8": 0.03, "q2": 0.1}  # how far a score may be from that of the formula
# Limits that make several commits, pieces and segments of a dozen photos.
SMALL = WriteLimits(
    StoreLimits(read_views=2, max_segment_views=5, size_tiers=(4, 8), merge_fan_in=2, min_basis_views=8),
    IngestLimits(batch_views=2, commit_views=2),
)


# -- the child: every change on disk is an event


@dataclass
class Watch:
    """What this process does at which event, and what it has seen."""

    armed: bool = False
    count: int = 0
    at: int = 0  # the event at which
    signal: int = signal.SIGKILL  # this is sent to itself,
    torn: bool = False  # after half of the write
    journal: int = -1
    synced: set[int] = field(default_factory=set)  # inodes
    unsynced_folders: dict[int, str] = field(default_factory=dict)
    unsynced: list[str] = field(default_factory=list)


WATCH = Watch()


def event(half: Callable[[], object] | None = None, locked: bool = False) -> None:
    """Something is about to change on disk; `locked`: SQLite may hold what a reader waits for, no place to stand."""
    if not WATCH.armed:
        return
    WATCH.count += 1
    if WATCH.signal == signal.SIGSTOP and WATCH.count == WATCH.at and locked:
        WATCH.at += 1
    elif WATCH.count == WATCH.at:
        if half is not None and WATCH.torn:
            half()
        os.kill(os.getpid(), WATCH.signal)


def in_short() -> str:
    """The exception at hand: where and what."""
    _, error, trace = sys.exc_info()
    at = traceback.extract_tb(trace)
    ours = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in at if "site-packages" not in frame.filename]
    return f"{type(error).__name__} at {' '.join(ours[-4:])}: {error}"


class WatchedFile(io.FileIO):
    """A file of Python's whose writes are events."""

    def write(self, data):
        event(lambda: os.write(self.fileno(), bytes(data)[: len(bytes(data)) // 2]))
        WATCH.synced.discard(os.fstat(self.fileno()).st_ino)
        return super().write(data)

    def truncate(self, size=None):
        event()
        WATCH.synced.discard(os.fstat(self.fileno()).st_ino)
        return super().truncate(size)


def watched_open(file, mode="r", buffering=-1, encoding=None, *args, **options):
    """io.open, which is Path.open too; reading and appending stay as they are."""
    if "w" not in mode:
        return PLAIN_OPEN(file, mode, buffering, encoding, *args, **options)
    binary = io.BufferedWriter(WatchedFile(file, "w"))
    return binary if "b" in mode else io.TextIOWrapper(binary, encoding)


def watched_fsync(descriptor):
    event()
    PLAIN_FSYNC(descriptor)
    inode = os.fstat(descriptor).st_ino
    WATCH.synced.add(inode)
    WATCH.unsynced_folders.pop(inode, None)


def on_audit(name: str, args: tuple) -> None:
    """Renames, removals and files that are made; Python speaks of them just before."""
    if not WATCH.armed:
        return
    if name == "os.rename" and isinstance(args[1], str | os.PathLike):
        target = Path(args[1])
        if os.stat(args[0]).st_ino not in WATCH.synced:
            WATCH.unsynced.append(f"{target.name} is renamed before it is synced")
        if target.parent.name in ("segments", "codecs"):  # of what transactions speak of
            WATCH.unsynced_folders[target.parent.stat().st_ino] = target.name
        event()
    elif name in ("os.remove", "os.mkdir", "os.rmdir", "os.truncate") or (
        name == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
    ):
        event()


PLAIN_WRITE = Database.write


@contextmanager
def watched_write(database: Database) -> Iterator[sqlite3.Connection]:
    with PLAIN_WRITE(database) as connection:
        yield connection
        before_commit()


def before_commit() -> None:
    for name in WATCH.unsynced_folders.values():
        WATCH.unsynced.append(f"the folder of {name} is not synced before the transaction")
    WATCH.unsynced_folders.clear()
    event()


class Vfs(ctypes.Structure):
    """The head of sqlite3_vfs, up to the door to its system calls."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("version", "size", "path")),
        *((f"pointer{i}", ctypes.c_void_p) for i in range(16)),
        *((name, ctypes.c_void_p) for name in ("set_call", "get_call")),
    )


def watch_sqlite() -> bool:
    """SQLite's own writes are events too, where its library lets itself be found: the middle of a commit."""
    import _sqlite3

    word, pointer, text = ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p
    try:
        find = ctypes.CDLL(getattr(_sqlite3, "__file__", None)).sqlite3_vfs_find
    except (AttributeError, OSError):
        return False
    find.restype, find.argtypes = ctypes.POINTER(Vfs), [text]
    vfs = find(None)
    set_call = ctypes.CFUNCTYPE(word, pointer, text, pointer)(vfs.contents.set_call)
    get_call = ctypes.CFUNCTYPE(pointer, pointer, text)(vfs.contents.get_call)
    size, offset = ctypes.c_size_t, ctypes.c_int64
    kinds = {
        "pwrite64": (ctypes.c_ssize_t, word, pointer, size, offset),
        "pwrite": (ctypes.c_ssize_t, word, pointer, size, offset),
        "write": (ctypes.c_ssize_t, word, pointer, size),
        "ftruncate": (word, word, offset),
        "unlink": (word, text),
    }
    for name, kind in kinds.items():
        found = get_call(vfs, name.encode())
        if found:
            prototype = ctypes.CFUNCTYPE(*kind, use_errno=True)
            callback = prototype(watched_call(name, prototype(found)))
            KEPT.append(callback)
            set_call(vfs, name.encode(), ctypes.cast(callback, pointer))
    return True


KEPT: list[object] = []  # callbacks that SQLite holds


def watched_call(name: str, call: Callable[..., int]) -> Callable[..., int]:
    def watched(*args):
        if "write" in name:
            event(lambda: call(*args[:2], args[2] // 2, *args[3:]), locked=True)
        else:
            event(locked=True)
        return call(*args)

    return watched


PLAIN_OPEN, PLAIN_FSYNC = io.open, os.fsync


def watch() -> None:
    """From here on this process counts."""
    Snapshot.rows = partialmethod(Snapshot.rows, piece_views=2)  # Readers read in small pieces, too.
    io.open, os.fsync = watched_open, watched_fsync
    sys.addaudithook(on_audit)
    watch_sqlite()
    Database.write = watched_write
    for name in ("commit", "rewrite", "remove_root"):
        setattr(Catalog, name, journalled(getattr(Catalog, name)))


def journalled(method: Callable[..., None]) -> Callable[..., None]:
    """A change of the catalogue that is written down as soon as it is known to be committed."""

    @wraps(method)
    def wrapper(catalog, *args):
        method(catalog, *args)
        armed, WATCH.armed = WATCH.armed, False
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit[1], limit[1]))
        os.write(WATCH.journal, (json.dumps(listing(catalog)) + "\n").encode())
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        WATCH.armed = armed

    return wrapper


def listing(catalog: Catalog) -> dict[str, str]:
    """Every image: path -> content hash."""
    query = "SELECT r.path || '/' || i.path, hex(hash) FROM images i JOIN roots r ON r.id = root"
    with catalog._database.read() as connection:
        rows = connection.execute(f"{query} JOIN contents c ON c.id = content ORDER BY 1").fetchall()
    return {path: digest.lower() for path, digest in rows}


class Encoder(FakeEncoder):
    """Less sharp: 256 steps of red, all that 2 bits a number can give here, must not change an order."""

    token_metric = np.diag(np.asarray([1, 1e-3, 1e-3, 1e-3], np.float32))  # red is what is asked for

    def encode_texts(self, texts):
        """The attention of FakeEncoder, with other colours' weights of e^-2 SOFT instead of nothing."""
        soft = np.asarray([-3 * SOFT - np.log(PATCHES)], np.float32)
        return [replace(query, u=SOFT * query.vector[None], c=soft) for query in super().encode_texts(texts)]


def open_engine(index: Path, codec: str = "fp16", limits: WriteLimits = WRITE_LIMITS) -> Engine:
    if not (index / "index.json").exists():
        try:
            create_index(index, replace(fake_settings(), codec=codec))
        except OSError as error:  # as Engine.open has it
            raise StoreError(f"{index} cannot be made ({error.strerror})") from None
    engine = Engine(index, open_settings(index), Path("fake"), "cpu", limits=limits)
    engine.__dict__["encoder"] = engine.__dict__["texts"] = Encoder()
    return engine


def obey(job: dict) -> None:
    """One command, as a job names it."""
    with open_engine(Path(job["index"]), job.get("made", "fp16"), SMALL) as engine:
        match job["do"]:
            case "open":
                engine.search("red")
                engine.search("red", 1, shortlist=2)  # which asks the prefilter
            case "add":
                engine.add(job.get("folders", ()))
            case "forget":
                with suppress(UsageError):  # forgotten already, by the run that was killed
                    engine.forget(job["path"])
            case "compact":
                for _ in engine.compact(job.get("codec")):
                    pass
            case "repair":
                engine.repair([one for _, _, some in engine.verify() for one in some])
            case "churn":
                churn(engine, job)


def churn(engine: Engine, job: dict) -> None:
    """Photos come, change, move and go, for as long as asked."""
    pool, photos = Path(job["pool"]), Path(job["photos"])
    names = sorted(path.name for path in pool.iterdir())
    rng = random.Random(job["seed"])
    for _ in range(job["cycles"]):
        shutil.rmtree(photos)
        photos.mkdir()
        for place in rng.sample(range(len(names)), len(names) // 2):
            shutil.copy(pool / rng.choice(names), photos / f"{place}.png")
        engine.add(photos)
        path = photos / rng.choice(sorted(path.name for path in photos.iterdir()))
        engine.forget(path)
        for _ in engine.compact():
            pass


def child(job: dict) -> None:
    """Never returns: the process ends as the job says, or well."""
    report: dict[str, object] = {"error": None, "crash": None}
    with PLAIN_OPEN(job["report"], "w") as out:
        WATCH.journal = os.open(job["journal"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        WATCH.at, WATCH.torn = job.get("at", 0), job.get("torn", False)
        WATCH.signal = signal.SIGSTOP if job.get("stop") else signal.SIGKILL
        if job.get("user"):
            os.setresuid(NOBODY, NOBODY, NOBODY)
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (job.get("limit", hard), hard))
        WATCH.armed = True
        try:
            obey(job)
        except FlairSearchError as error:
            report["error"] = str(error)
        except BaseException:
            report["crash"] = in_short()
        WATCH.armed = False
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        out.write(json.dumps(report | {"events": WATCH.count, "unsynced": WATCH.unsynced}))
    os._exit(0)


def serve() -> None:
    """Read jobs, fork a child for each (nothing is imported twice), answer how it ended."""
    warnings.simplefilter("error", RuntimeWarning)
    watch()
    assert "torch" not in sys.modules, "the writer needs no torch; a child of a process with its threads may hang"
    for line in sys.stdin:
        job = json.loads(line)
        if "go_on" in job:
            pid = job["go_on"]
            os.kill(pid, job["signal"])
        else:
            pid = os.fork()
            if pid == 0:
                child(job)
        _, status = os.waitpid(pid, os.WUNTRACED)
        signalled = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        print(json.dumps({"stopped": pid if os.WIFSTOPPED(status) else 0, "signal": signalled}), flush=True)


# -- the parent: a small world of photos, and what is asked of an index in it


@dataclass
class World:
    """Photos whose answers are known, and the process that works on them."""

    work: Path
    server: subprocess.Popen[str]
    painted: dict[str, int] = field(default_factory=dict)  # content hash -> red patches
    bases: dict[str, Base] = field(default_factory=dict)

    @property
    def index(self) -> Path:
        return self.work / "index"

    @property
    def photos(self) -> Path:
        return self.work / "photos"

    @property
    def more(self) -> Path:
        return self.work / "more"

    def paint(self, path: Path, patches: int) -> None:
        self.painted[content_hash(paint_red(path, patches).read_bytes()).hex()] = patches


@dataclass
class Base:
    """Where a command begins, and how it ends when nobody disturbs it."""

    job: dict
    photos: Path  # as they are while it runs
    index: Path | None  # none: the command makes it
    before: Seen
    after: Seen
    events: int
    states: list[dict[str, str]]  # listings, commit by commit
    unsynced: list[str]
    left: list[str]  # what it leaves to compaction


@dataclass
class Seen:
    """What an index shows."""

    codec: str
    listing: dict[str, str]
    ranking: list[str]
    codecs: set[str]
    empty_rows: int  # of photos that are gone or have moved, in segments that compaction is for
    skipped: list[str]
    wrong: list[str] = field(default_factory=list, compare=False)  # what should not be, in words
    damaged: list[str] = field(default_factory=list, compare=False)  # paths


def look(world: World, index: Path | None = None) -> Seen:
    """Open an index, verify it, search it, and compare every photo's tokens with what was painted."""
    index = index or world.index
    seen = Seen("", {}, [], set(), 0, [])
    if not (index / "index.json").exists():
        return seen
    try:
        with open_engine(index) as engine:
            fill(seen, world, engine)
    except Exception:  # whatever it is, the index does not answer
        seen.wrong.append(in_short())
    return seen


def fill(seen: Seen, world: World, engine: Engine) -> None:
    catalog, seen.codec = engine._catalog, engine.settings.codec
    damage = [one for _, _, some in engine.verify() for one in some]
    seen.damaged = sorted(path for one in damage for path in one.paths)
    seen.listing = listing(catalog)
    seen.skipped = sorted(one.path for one in catalog.statistics.skipped())
    reader, state = Snapshot(engine.folder, engine.settings, catalog), catalog.state()
    seen.codecs = {label.partition(":")[0] for n, _, label in state.segments if (state.views.segment == n).any()}
    for number, count, _ in state.segments:
        live = int((state.views.segment == number).sum())
        seen.empty_rows += count - live if live < (1 - STORE_LIMITS.max_dead_fraction) * count else 0
    stored: dict[str, list[int]] = {}
    hashes = catalog.content_hashes(reader.views.content.tolist())
    tokens = reader.encoded(reader.views.id).tokens if len(reader) else []
    for content, x in zip(reader.views.content.tolist(), tokens, strict=True):
        stored.setdefault(hashes[content].hex(), []).append(int((x[:, 0] > 0).sum()))
    readable = {}
    for path, digest in seen.listing.items():
        if path not in seen.damaged:
            readable[path] = world.painted[digest]
            if stored.get(digest) != [readable[path]]:
                seen.wrong.append(f"{path}: {stored.get(digest)} red patches stored, {readable[path]} painted")
    near = max((NEAR[name] for name in seen.codecs), default=0)
    engine.search("red", 1, shortlist=2)  # which asks the prefilter
    hits = engine.search("red", k=1000, shortlist="all")
    seen.ranking = [hit.path for hit in hits if hit.path in readable]
    seen.wrong += [f"{path} is not found" for path in sorted(readable.keys() - set(seen.ranking))]
    counts = [readable[path] for path in seen.ranking]
    if counts != sorted(counts, reverse=True):
        seen.wrong.append(f"ranked by patches: {counts}")
    for hit in hits:
        patches = readable.get(hit.path)
        if patches and abs(hit.score - expected_score(patches)) > near * expected_score(patches):
            seen.wrong.append(f"{hit.path}: score {hit.score}, by the formula {expected_score(patches)}")


def left_over(index: Path) -> list[str]:
    """Files of an index that nothing speaks of, and segments without a view."""
    catalog = Catalog(index)
    state = catalog.state()
    segments = [n for n, _, _ in state.segments]
    rows = {n: len(catalog.segment_views(n).id) for n in segments}
    catalog.close()
    expected = {"index.json", "catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm", "writer.lock"}
    expected.add("last-run.json")
    expected |= {f"segments/{n:06d}.{kind}" for n in segments for kind in ("tokens", "pooled")}
    expected |= {f"codecs/{label.partition(':')[2]}.npz" for _, _, label in state.segments if ":" in label}
    kinds = ("faiss", "views")
    caches = [next((index / "prefilter").glob(f"{state.generation:06d}-*.{kind}"), None) for kind in kinds]
    expected |= {f"prefilter/{file.name}" for file in caches if file and checksum_matches(file)}
    found = {str(file.relative_to(index)) for file in index.rglob("*") if file.is_file()}
    return sorted(found - expected) + [f"segment {n} has no view" for n, count in rows.items() if not count]


def send(world: World, **job: object) -> None:
    """A job for the other process; `wait` for its answer."""
    for name in ("journal", "report"):
        (world.work / name).unlink(missing_ok=True)
    places = {name: str(world.work / name) for name in ("index", "journal", "report")}
    tell(world, places | job)


def tell(world: World, message: dict) -> None:
    world.server.stdin.write(json.dumps(message) + "\n")
    world.server.stdin.flush()


def answered(world: World) -> bool:
    return bool(select.select([world.server.stdout], [], [], 0)[0])


def wait(world: World) -> dict:
    """How the child ended: its signal, what it reported, and the states it knew to be committed."""
    line = world.server.stdout.readline()
    if not line:
        raise RuntimeError(f"the process that runs the commands ended with {world.server.wait()}")
    answer = json.loads(line)
    report, journal = world.work / "report", world.work / "journal"
    if not answer["signal"] and not answer["stopped"]:
        answer |= json.loads(report.read_text())
    text = journal.read_text() if journal.exists() else ""
    return answer | {"states": [json.loads(line) for line in text.splitlines()]}


def run(world: World, **job: object) -> dict:
    send(world, **job)
    return wait(world)


def put(source: Path | None, target: Path) -> None:
    """A copy of a folder in the place of another."""
    shutil.rmtree(target, ignore_errors=True)
    if source is not None:
        shutil.copytree(source, target)


@contextmanager
def a_world(work: Path) -> Iterator[World]:
    """Photos, the commands on them, and their undisturbed runs."""
    command = [sys.executable, "-c", "from benchmarks.faults import serve; serve()"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    server = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    world = World(work, server)
    try:
        make_bases(world)
        yield world
    finally:
        server.stdin.close()
        server.wait()
        server.stdout.close()


def make_bases(world: World) -> None:
    """One command after the other, each on what the last one left."""
    photos, more = world.photos, world.more
    for patches in (1, 3, 5, 8, 12, 18, 27):
        world.paint(photos / f"{patches}.png", patches)
    shutil.copy(photos / "8.png", photos / "twin.png")
    (photos / "text.png").write_text("no picture")
    for patches in (2, 40, 60):
        world.paint(more / f"{patches}.png", patches)
    add_base(world, "grow", {"do": "add", "folders": [str(photos), str(more)], "made": "q2"}, fresh=True)
    add_base(world, "add", {"do": "add", "folders": [str(photos), str(more)]}, fresh=True)
    world.paint(photos / "5.png", 33)  # changed,
    (photos / "sub").mkdir()
    (photos / "3.png").rename(photos / "sub" / "three.png")  # moved,
    (photos / "18.png").unlink()  # gone
    for patches in (22, 50, 64):  # and new
        world.paint(photos / f"{patches}.png", patches)
    add_base(world, "rescan", {"do": "add"})
    add_base(world, "forget", {"do": "forget", "path": str(more)})
    add_base(world, "compact", {"do": "compact"})
    add_base(world, "to int8", {"do": "compact", "codec": "int8"})
    add_base(world, "to q2", {"do": "compact", "codec": "q2"})
    for file in sorted((world.index / "segments").glob("*.tokens"))[:2]:
        flip(file, file.stat().st_size // 2)
    add_base(world, "repair", {"do": "repair"})


def add_base(world: World, name: str, job: dict, fresh: bool = False) -> None:
    if fresh:
        put(None, world.index)
    kept = None if fresh else world.work / f"{name} before"
    if kept is not None:
        put(world.index, kept)
    put(world.photos, world.work / f"{name} photos")
    before = look(world)
    ended = run(world, **job)
    if ended["error"] or ended["crash"]:
        raise RuntimeError(f"{name}: {ended['crash'] or ended['error']}")
    after = look(world)
    put(world.index, world.work / f"{name} after")
    states = [before.listing, *ended["states"]]
    photos, left = world.work / f"{name} photos", left_over(world.index)
    world.bases[name] = Base(job, photos, kept, before, after, ended["events"], states, ended["unsynced"], left)


def begin(world: World, name: str, after: bool = False) -> Base:
    """Everything as it is before a command, or after it."""
    base = world.bases[name]
    put(world.work / f"{name} after" if after else base.index, world.index)
    if not same_files(base.photos, world.photos):
        put(base.photos, world.photos)
    return base


def same_files(one: Path, other: Path) -> bool:
    """By name, size and time: copies keep their times."""
    facts = [
        {p.relative_to(at): (p.stat().st_size, p.stat().st_mtime_ns) for p in at.rglob("*") if p.is_file()}
        for at in (one, other)
    ]
    return facts[0] == facts[1]


def flip(file: Path, offset: int) -> None:
    """One bit."""
    data = bytearray(file.read_bytes())
    data[offset] ^= 1
    file.write_bytes(data)


# -- kills


def kill_points(world: World, count: int, seed: int) -> Iterator[tuple[str, bool, bool, list[str]]]:
    """(command, whether it was killed there, whether it was the run after a kill, what is wrong) for every point."""
    rng, done = random.Random(seed), 0
    for name in cycle(world.bases):
        if done >= count:
            return
        base = begin(world, name)
        known, exact, again = base.before.listing, True, False
        while True:
            at, torn = rng.randint(1, base.events), rng.random() < 0.5
            ended = run(world, **base.job, at=at, torn=torn)
            known = ended["states"][-1] if ended["states"] else known
            wrong = after_kill(base, look(world), known, ended["states"] if exact else None)
            if not ended["signal"]:
                wrong += not_ended_well(world, base, ended)
            done += 1
            more = ended["signal"] and rng.random() < 0.25 and done < count
            if not more and ended["signal"]:
                wrong += not_ended_well(world, base, run(world, **base.job))
            yield name, bool(ended["signal"]), again, [f"{name}, event {at}{' torn' * torn}: {w}" for w in wrong]
            if not more:
                break
            exact, again = False, True


def after_kill(base: Base, seen: Seen, known: dict[str, str], states: list[dict[str, str]] | None = None) -> list[str]:
    """What is wrong with an index after a kill; `known`: the last listing that was reported as committed."""
    wrong = list(seen.wrong)
    extra = set(seen.damaged) - set(base.before.damaged)
    wrong += [f"damaged: {path}" for path in sorted(extra)]
    final = base.after.listing
    for path in sorted(known.keys() & final.keys() - seen.listing.keys()):
        wrong.append(f"lost: {path}")
    for path, digest in seen.listing.items():
        if digest not in (known.get(path), final.get(path)):
            wrong.append(f"{path} is neither as it was nor as it is")
    if states is not None:  # it went the way of the undisturbed run, up to some commit or the one after it
        at = len(states)
        if seen.listing not in base.states[at : at + 2]:
            wrong.append(f"between two states, after commit {at} of {len(base.states) - 1}")
    return wrong


def not_ended_well(world: World, base: Base, ended: dict) -> list[str]:
    """What is wrong after the command has been let come to its end."""
    if ended["signal"] or ended["error"] or ended["crash"]:
        return [f"the next run: {ended['signal'] or ended['error'] or ended['crash']}"]
    seen = look(world)
    wrong = seen.wrong + [f"damaged at the end: {path}" for path in seen.damaged]
    if base.job["do"] == "compact" and seen.empty_rows:  # else merges have left out some of them, or not
        wrong.append(f"ends with {seen.empty_rows} rows of nobody")
    for name in ("codec", "listing", "ranking", "codecs", "skipped"):
        if getattr(seen, name) != getattr(base.after, name):
            wrong.append(f"ends with {name} {getattr(seen, name)}, undisturbed {getattr(base.after, name)}")
    return wrong + [f"{LITTER}: {name}" for name in left_over(world.index) if name not in base.left]


# -- other faults: each yields one list of what is wrong for every try


def one_line(ended: dict, words: str) -> list[str]:
    """A command must have been refused, in one line that says what to do."""
    error = ended["error"]
    if error is None or words not in error or "\n" in error or ended["crash"]:
        return [f"expected one line with {words!r}, found {error or ended['crash'] or 'no error'}"]
    return []


def refused(action: Callable[[], object], words: str) -> list[str]:
    """The same, of something done in this process."""
    try:
        action()
    except StoreError as error:
        return one_line({"error": str(error), "crash": None}, words)
    except Exception:
        return [in_short()]
    return [f"expected one line with {words!r}, found no error"]


def full_disk(world: World, rng: random.Random) -> Iterator[list[str]]:
    """A limit on the size of files, at random: the write that passes it fails."""
    for name in ("add", "to q2", "rescan", "forget", "compact", "to int8", "grow", "repair") * 3:
        base = begin(world, name)
        sizes = [file.stat().st_size for file in (world.work / f"{name} after").rglob("*") if file.is_file()]
        ended = run(world, **base.job, limit=rng.randrange(max(sizes)))
        known = ended["states"][-1] if ended["states"] else base.before.listing
        wrong = after_kill(base, look(world), known)
        if ended["error"] or ended["crash"]:
            wrong += one_line(ended, "cannot be")
        yield wrong + not_ended_well(world, base, run(world, **base.job))


@contextmanager
def small_disk(place: Path, size: int) -> Iterator[bool]:
    """A tmpfs of so many bytes; False where none may be mounted."""
    place.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(place)], check=True)


def small_tmpfs(world: World, rng: random.Random) -> Iterator[list[str]]:
    """A disk with room for part of the run; then the rest of its room comes free."""
    for name in ("add", "compact", "to q2") * 3:
        base = begin(world, name)
        with small_disk(world.work / "disk", 4 << 20) as mounted:
            if not mounted:
                return
            index, filler = world.work / "disk" / "index", world.work / "disk" / "filler"
            put(base.index, index)
            with filler.open("wb", buffering=0) as stream, suppress(OSError):
                while True:
                    stream.write(bytes(4096))
            os.truncate(filler, max(0, filler.stat().st_size - 4096 * rng.randrange(0, 40)))
            ended = run(world, **base.job, index=str(index))
            known = ended["states"][-1] if ended["states"] else base.before.listing
            wrong = one_line(ended, "cannot be") if ended["error"] or ended["crash"] else []
            filler.unlink()
            wrong += after_kill(base, look(world, index), known)
            put(index, world.index)
        yield wrong + not_ended_well(world, base, run(world, **base.job))


def read_only_folder(world: World, _rng: random.Random) -> Iterator[list[str]]:
    """An index that may be read only: writing is refused, reading goes on. Root is somebody else for a while."""
    if os.geteuid() == 0 and not may_become_nobody(world.work):
        return
    for name in ("rescan", "compact"):
        base = begin(world, name)
        files = [world.index, *world.index.rglob("*")]
        for path in files:
            path.chmod(0o555 if path.is_dir() else 0o444)
        ended = run(world, **base.job, user=os.geteuid() == 0)
        wrong = one_line(ended, "cannot be")
        with nobody():
            seen = look(world)
        wrong += [f"read-only: {w}" for w in seen.wrong]
        wrong += ["reads otherwise when read-only"] * (seen != base.before)
        for path in files:
            with suppress(FileNotFoundError):  # of the catalogue, gone with its last reader
                path.chmod(0o755 if path.is_dir() else 0o644)
        yield wrong + not_ended_well(world, base, run(world, **base.job))


@contextmanager
def nobody() -> Iterator[None]:
    """Permissions mean nothing to root."""
    if os.geteuid() != 0:
        yield
        return
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


def may_become_nobody(work: Path) -> bool:
    """Whether permissions can be tried here, and somebody else may enter the folder."""
    try:
        with nobody():
            return os.access(work, os.X_OK, effective_ids=True)
    except OSError:
        return False


def flipped_bits(world: World, rng: random.Random) -> Iterator[list[str]]:
    """verify names the photo of the row that was hit and no other; repair brings it back."""
    for name, kind in (("add", "tokens"), ("add", "pooled"), ("to q2", "tokens"), ("to q2", "pooled")) * 3:
        base = begin(world, name, after=True)
        file = rng.choice(sorted((world.index / "segments").glob(f"*.{kind}")))
        offset = rng.randrange(file.stat().st_size)
        hit = at_row(world.index, int(file.stem), offset / file.stat().st_size)
        flip(file, offset)
        yield damaged_exactly(world, hit) + repaired(world, base)


def at_row(index: Path, segment: int, share: float | None = None) -> list[str]:
    """The photos of a segment, or of the row that a share of its bytes lies in."""
    catalog = Catalog(index)
    (count,) = (n for number, n, _ in catalog.state().segments if number == segment)
    views = catalog.segment_views(segment)
    chosen = views.live if share is None else views.live & (views.row == int(share * count))
    state = catalog.state().views
    contents = state.content[np.isin(state.id, views.id[chosen])].tolist()
    paths = sorted(path for images in catalog.images_of(contents).values() for _, path in images)
    catalog.close()
    return paths


def damaged_exactly(world: World, expected: list[str]) -> list[str]:
    seen = look(world)
    wrong = list(seen.wrong)
    if seen.damaged != expected:
        wrong.append(f"verify names {seen.damaged}, damaged is {expected}")
    return wrong


def repaired(world: World, base: Base) -> list[str]:
    """Repair all whose photo is there, then compact: nothing is damaged, lost or left over."""
    for job in ({"do": "repair"}, {"do": "compact"}):
        ended = run(world, **job)
        if ended["error"] or ended["crash"]:
            return [f"{job['do']}: {ended['error'] or ended['crash']}"]
    seen = look(world)
    wrong = seen.wrong + [f"damaged after repair: {path}" for path in seen.damaged]
    if (seen.listing, seen.ranking) != (base.after.listing, base.after.ranking):
        wrong.append("not as before the damage")
    return wrong + [f"{LITTER}: {name}" for name in left_over(world.index)]


def cut_segment(world: World, rng: random.Random, remove: bool = False) -> Iterator[list[str]]:
    """The views of that segment are named, the others answer; repair brings them back."""
    for name in ("add", "to q2"):
        for kind in ("tokens", "pooled"):
            base = begin(world, name, after=True)
            file = rng.choice(sorted((world.index / "segments").glob(f"*.{kind}")))
            expected = at_row(world.index, int(file.stem))
            if remove:
                file.unlink()
            else:
                os.truncate(file, rng.randrange(file.stat().st_size))
            yield damaged_exactly(world, expected) + repaired(world, base)


def lost_segment(world: World, rng: random.Random) -> Iterator[list[str]]:
    """The same with a file that is not there."""
    yield from cut_segment(world, rng, remove=True)


def lost_basis(world: World, _rng: random.Random) -> Iterator[list[str]]:
    """All views written in it are named, a new one cannot be fitted to nothing; the file back, all is well."""
    base = begin(world, "to q2", after=True)
    (file,) = (world.index / "codecs").glob("*.npz")
    file.rename(world.work / "basis")
    wrong = damaged_exactly(world, sorted(base.after.listing))
    wrong += one_line(run(world, do="add"), "no view that is whole - run flairsearch verify --repair")
    (world.work / "basis").rename(file)
    yield wrong + damaged_exactly(world, [])


def damage_basis(world: World, rng: random.Random, how: str) -> None:
    """Its file is gone, cut or has a flipped bit that matters."""
    (file,) = (world.index / "codecs").glob("*.npz")
    whole = file.read_bytes()
    file.unlink() if how == "missing" else file.write_bytes(whole[: rng.randrange(len(whole))])
    if how == "flipped":
        file.write_bytes(whole)
        flip(file, whole.index(b"NUMPY") + 40)  # in the first array, which has a checksum


def repaired_basis(world: World, rng: random.Random) -> Iterator[list[str]]:
    """Repair takes the photos, the next run fits a new basis; a kill on the way is made up for by the next run."""
    for number, how in enumerate(("missing", "cut", "flipped") * 4):
        base = begin(world, "to q2", after=True)
        damage_basis(world, rng, how)
        wrong = damaged_exactly(world, sorted(base.after.listing))
        for job in ({"do": "repair"}, {"do": "add"}):
            for _ in range(number % 4):  # kills
                run(world, **job, at=rng.randint(1, 80), torn=rng.random() < 0.5)
                seen = look(world)
                wrong += seen.wrong + ["a photo is lost"] * (seen.listing != base.after.listing)
            ended = run(world, **job)
            wrong += [f"{job['do']}: {ended['error'] or ended['crash']}"] * bool(ended["error"] or ended["crash"])
            seen = look(world)
            wrong += seen.wrong + [f"damaged after {job['do']}: {path}" for path in seen.damaged]
        if (seen.listing, seen.ranking, seen.codecs) != (base.after.listing, base.after.ranking, {"q2"}):
            wrong.append(f"not as before the damage: {seen.ranking} in {seen.codecs}")
        yield [f"basis {how}: {w}" for w in wrong + [f"{LITTER}: {name}" for name in left_over(world.index)]]


def photos_beside_a_damaged_basis(world: World, rng: random.Random) -> Iterator[list[str]]:
    """More photos come before anybody repairs it: what was written in it is named until it is, and nothing else."""
    for how in ("missing", "cut", "flipped"):
        base = begin(world, "to q2", after=True)
        old = sorted(base.after.listing)
        damage_basis(world, rng, how)
        for patches in (2, 6, 10, 14, 16, 20, 24, 30, 40):
            world.paint(world.photos / "later" / f"{patches}.png", patches)
        ended = run(world, do="add")
        wrong = [ended["error"] or ended["crash"]] if ended["error"] or ended["crash"] else []
        wrong += damaged_exactly(world, old)
        for job in ({"do": "repair"}, {"do": "add"}):
            ended = run(world, **job)
            wrong += [f"{job['do']}: {ended['error'] or ended['crash']}"] * bool(ended["error"] or ended["crash"])
        wrong += damaged_exactly(world, [])
        yield [f"basis {how}: {w}" for w in wrong + [f"{LITTER}: {name}" for name in left_over(world.index)]]
    shutil.rmtree(world.photos / "later")


def flipped_basis(world: World, rng: random.Random) -> Iterator[list[str]]:
    """A bit of the basis: either it means nothing, or it is one line, never a wrong answer."""
    base = begin(world, "to q2", after=True)
    (file,) = (world.index / "codecs").glob("*.npz")
    whole = file.read_bytes()
    for offset in [0, len(whole) - 10, *(rng.randrange(len(whole)) for _ in range(14))]:
        flip(file, offset)
        seen = look(world)
        wrong = [f"byte {offset}: {w}" for w in seen.wrong]
        if seen.damaged not in ([], sorted(base.after.listing)):
            wrong.append(f"byte {offset}: verify names {seen.damaged}")
        ended = run(world, do="add", folders=[str(world.photos)])
        wrong += one_line(ended, "no view that is whole") if seen.damaged or ended["crash"] else []
        file.write_bytes(whole)
        yield wrong + damaged_exactly(world, [])


# -- caches: files that can be made again


def damaged_cache(world: World, rng: random.Random) -> Iterator[list[str]]:
    """Deleted, cut, flipped, or half of one left by a power cut: no photo is missed, and none of it is left."""
    for name in ("add", "to q2", "forget"):
        for how in ("deleted", "cut", "flipped", "flipped in its head", "left by a power cut") * 2:
            base = begin(world, name, after=True)
            look(world)  # makes them
            for kind in ("faiss", "views"):
                (file,) = (world.index / "prefilter").glob(f"*.{kind}")
                size = file.stat().st_size
                match how:
                    case "deleted":
                        file.unlink()
                    case "cut":
                        os.truncate(file, rng.randrange(size))
                    case "flipped":
                        flip(file, rng.randrange(80 if kind == "faiss" else 0, size))
                    case "flipped in its head":
                        flip(file, rng.randrange(min(size, 81)))
                    case _:
                        shutil.copy(file, file.with_name(f"{rng.randrange(1, 99999)}.{kind}.part"))
            wrong = search_only(world, base)
            seen = look(world)
            wrong += seen.wrong + ["the index changed"] * (seen != base.after)
            for job in ({"do": "open"}, {"do": "add"}):
                ended = run(world, **job)
                wrong += [f"{job['do']}: {ended['error'] or ended['crash']}"] * bool(ended["error"] or ended["crash"])
            wrong += [f"{LITTER}: {name}" for name in left_over(world.index) if name.startswith("prefilter")]
            yield [f"{name}, {how}: {w}" for w in wrong]


def search_only(world: World, base: Base) -> list[str]:
    """What is wrong with the answers of an index that nobody has verified."""
    try:
        with open_engine(world.index) as engine:
            engine.search("red", 1, shortlist=2)  # which asks the prefilter
            found = [hit.path for hit in engine.search("red", k=1000, shortlist="all")]
    except Exception:
        return [in_short()]
    return [] if found == base.after.ranking else [f"finds {found}"]


# -- formats


def newer_catalogue(world: World, _rng: random.Random) -> Iterator[list[str]]:
    """A catalogue of a later flairsearch beside settings of today: refused, and nothing is touched."""
    base = begin(world, "rescan")
    for version in (FORMAT_VERSION + 1, 99):
        numbered(world.index, version)
        before = (world.index / "catalog.sqlite").read_bytes()
        wrong = one_line(run(world, **base.job), "update flairsearch")
        wrong += refused(lambda: open_engine(world.index), "update flairsearch")
        wrong += ["the catalogue changed"] * ((world.index / "catalog.sqlite").read_bytes() != before)
        numbered(world.index, FORMAT_VERSION)
        yield wrong + (["something was touched"] if look(world) != base.before else [])
    yield not_ended_well(world, base, run(world, **base.job))


def numbered(index: Path, version: int) -> None:
    """Another number in the catalogue; the log is written into it."""
    connection = sqlite3.connect(index / "catalog.sqlite")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def as_format_1(index: Path) -> None:
    """The same index, as the first format had it: no number in the catalogue and no dates, no caches."""
    connection = sqlite3.connect(index / "catalog.sqlite")
    connection.execute("ALTER TABLE contents DROP COLUMN taken")
    connection.close()
    numbered(index, 0)
    values = json.loads((index / "index.json").read_text())
    (index / "index.json").write_text(json.dumps(values | {"format": 1}, indent=2) + "\n")
    shutil.rmtree(index / "prefilter", ignore_errors=True)


def migration(world: World, rng: random.Random) -> Iterator[list[str]]:
    """An index of format 1, opened or written to, killed anywhere: what is half done is done by whoever comes next."""
    for name, job in (("rescan", {"do": "open"}), ("to q2", {"do": "open"}), ("rescan", {"do": "add"})) * 5:
        base = begin(world, name)
        as_format_1(world.index)
        ended = run(world, **job, at=rng.randint(1, 24), torn=rng.random() < 0.5)
        found = formats(world.index)
        wrong = [f"index.json has format {found[0]}, the catalogue {found[1]}"] * (
            found not in ((1, 0), (FORMAT_VERSION, 0), (FORMAT_VERSION, FORMAT_VERSION))
        )
        known = ended["states"][-1] if ended["states"] else base.before.listing
        wrong += after_kill(base, look(world), known)
        if formats(world.index) != (FORMAT_VERSION, FORMAT_VERSION):
            wrong.append(f"opened, index.json and the catalogue have the formats {formats(world.index)}")
        yield wrong + not_ended_well(world, base, run(world, **base.job))


def formats(index: Path) -> tuple[int, int]:
    """Of index.json and of the catalogue."""
    connection = sqlite3.connect(index / "catalog.sqlite")
    (number,) = connection.execute("PRAGMA user_version").fetchone()
    connection.close()
    return json.loads((index / "index.json").read_text())["format"], number


def newer_format(world: World, _rng: random.Random) -> Iterator[list[str]]:
    """An index of a later flairsearch is refused before anything is touched."""
    base = begin(world, "rescan")
    file = world.index / "index.json"
    old = file.read_text()
    values = json.loads(old)
    for newer in ({"format": values["format"] + 1}, {"format": values["format"] + 1, "unheard_of": [1]}):
        file.write_text(json.dumps(values | newer))
        wrong = one_line(run(world, **base.job), "update flairsearch")
        wrong += refused(lambda: open_engine(world.index), "update flairsearch")
        file.write_text(old)
        yield wrong + (["something was touched"] if look(world) != base.before else [])
    yield not_ended_well(world, base, run(world, **base.job))


def no_catalogue(world: World, _rng: random.Random) -> Iterator[list[str]]:
    """A catalogue that is missing, empty of sense or cut is one line."""
    base = begin(world, "rescan")
    file = world.index / "catalog.sqlite"
    whole = file.read_bytes()
    for data, words in ((None, "is missing"), (b"no catalogue" * 999, "is damaged"), (whole[:6000], "damaged")):
        file.unlink()
        if data is not None:
            file.write_bytes(data)
        wrong = one_line(run(world, **base.job), words) + refused(lambda: open_engine(world.index).search("red"), words)
        for name in ("catalog.sqlite-wal", "catalog.sqlite-shm"):
            (world.index / name).unlink(missing_ok=True)
        file.write_bytes(whole)
        yield wrong + (["something was touched"] if look(world) != base.before else [])
    yield not_ended_well(world, base, run(world, **base.job))


def two_writers(world: World, rng: random.Random) -> Iterator[list[str]]:
    """The second is refused in one line wherever the first stands still; killed there, the first is no obstacle."""
    for name in ("rescan", "compact", "forget", "grow"):
        base = begin(world, name)
        for ending in (signal.SIGCONT, signal.SIGKILL):
            begin(world, name)
            ended = run(world, **base.job, at=rng.randint(base.events * 2 // 5, base.events // 2), stop=True)
            if not ended["stopped"]:
                raise RuntimeError(f"{name} did not stop")
            words = "is being written by another process"
            settings = IndexSettings.load(world.index)
            wrong = refused(lambda settings=settings: Writer(world.index, settings).close(), words)
            tell(world, {"go_on": ended["stopped"], "signal": ending})
            ended = wait(world)
            if ending == signal.SIGKILL:
                ended = run(world, **base.job)
            yield wrong + not_ended_well(world, base, ended)


def stopped_writers(world: World, rng: random.Random) -> Iterator[list[str]]:
    """A writer that stands still in the middle of something: who reads then sees the last state or the next."""
    for name, base in [*world.bases.items()] * 3:
        begin(world, name)
        ended = run(world, **base.job, at=rng.randint(1, base.events), stop=True)
        known = ended["states"][-1] if ended["states"] else base.before.listing
        wrong = after_kill(base, look(world), known, ended["states"])
        if ended["stopped"]:
            tell(world, {"go_on": ended["stopped"], "signal": signal.SIGCONT})
            ended = wait(world)
        yield wrong + not_ended_well(world, base, ended)


def busy_reader(world: World, rng: random.Random, cycles: int = 12) -> Iterator[list[str]]:
    """This process searches without a break while the other adds, forgets and compacts: whole states, in order."""
    pool, photos = world.work / "pool", world.work / "churned"
    for patches in range(1, 33, 2):
        world.paint(pool / f"{patches}.png", patches)
    put(pool, photos)
    put(None, world.index)
    with open_engine(world.index) as engine:
        places = {"pool": str(pool), "photos": str(photos)}
        send(world, do="churn", **places, cycles=cycles, seed=rng.random())
        seen: list[dict[str, int]] = [{}]
        wrong = []
        while not answered(world):
            try:
                found = {hit.path: patches_of(hit.score) for hit in engine.search("red", k=1000, shortlist="all")}
            except Exception:
                wrong.append(in_short())
                continue
            if found != seen[-1]:
                seen.append(found)
    ended = wait(world)
    states = [{}] + [{path: world.painted[h] for path, h in state.items()} for state in ended["states"]]
    at = 0
    for number, found in enumerate(seen):
        if found in states[at:]:
            at = states.index(found, at)
        elif found in states:
            wrong.append(f"state {number} of {len(seen)} the reader saw came before one it saw already")
        else:
            wrong.append(f"state {number} of {len(seen)} the reader saw was never committed")
    if ended["error"] or ended["crash"]:
        wrong.append(ended["error"] or ended["crash"])
    if len(seen) < min(cycles, 3):
        wrong.append(f"it saw {len(seen)} states only")
    yield wrong + look(world).wrong + [f"{LITTER}: {name}" for name in left_over(world.index)]


def swapped_photos(world: World, rng: random.Random) -> Iterator[list[str]]:
    """Photos that take each other's places, while small segments merge: each of them is found after each run."""
    pool, photos = world.work / "pool", world.work / "churned"
    for patches in range(1, 33, 2):
        world.paint(pool / f"{patches}.png", patches)
    put(pool, photos)
    put(None, world.index)
    for _ in range(30):
        ended = run(world, do="churn", pool=str(pool), photos=str(photos), cycles=2, seed=rng.random())
        yield look(world).wrong + [ended["error"] or ended["crash"]] * bool(ended["error"] or ended["crash"])


def patches_of(score: float) -> int:
    """The formula the other way round."""
    return min(range(1, 65), key=lambda patches: abs(expected_score(patches) - score))


def order_of_syncs(world: World, _rng: random.Random) -> Iterator[list[str]]:
    """What a kill cannot show and a power cut would: files synced before their rename, folders before the commit."""
    for name, base in world.bases.items():
        yield [f"{name}: {line}" for line in sorted(set(base.unsynced))]


FAULTS = (
    full_disk,
    small_tmpfs,
    read_only_folder,
    flipped_bits,
    cut_segment,
    lost_segment,
    lost_basis,
    repaired_basis,
    photos_beside_a_damaged_basis,
    flipped_basis,
    damaged_cache,
    newer_format,
    newer_catalogue,
    migration,
    no_catalogue,
    two_writers,
    stopped_writers,
    busy_reader,
    swapped_photos,
    order_of_syncs,
)


def main() -> None:
    parser = argparse.ArgumentParser(description="What an index keeps when things go wrong.")
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="an empty folder on the disk to try; default: a temporary one")
    args = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=args.work) as work:
        Path(work).chmod(0o755)
        with a_world(Path(work)) as world:
            tally: Counter[tuple[str, str]] = Counter()
            problems = []
            for name, killed, again, wrong in kill_points(world, args.points, args.seed):
                tally[name, "points"] += 1
                tally[name, "kills"] += killed
                tally[name, "again"] += again
                litter = [w for w in wrong if LITTER in w]
                tally[name, "left over"] += bool(litter)
                tally[name, "losses"] += len(wrong) > len(litter)
                problems += wrong
            print(f"{args.points} kill points, seed {args.seed}; a loss: anything not as it should be after the kill\n")
            print("| command | events | points | of them in a run after a kill | kills | losses | files left over |")
            print("|---|---|---|---|---|---|---|")
            columns = ("points", "again", "kills", "losses", "left over")
            for name, base in world.bases.items():
                print(f"| {name} | {base.events} | {' | '.join(str(tally[name, c]) for c in columns)} |")
            sums = [sum(n for (_, c), n in tally.items() if c == column) for column in columns]
            print(f"| all | | {' | '.join(map(str, sums))} |")
            print("\n| other fault | tried | of them not as it should be |\n|---|---|---|")
            for fault in FAULTS:
                tries = list(fault(world, random.Random(args.seed)))
                name = fault.__name__.replace("_", " ")
                print(f"| {name} | {len(tries) or 'cannot be tried here'} | {sum(map(bool, tries))} |", flush=True)
                problems += [f"{name}: {w}" for some in tries for w in some]
    print(f"\n{time.monotonic() - began:.0f} s")
    for problem, times in Counter(problems).items():
        print(f"{times} x {problem}")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
