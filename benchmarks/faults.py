"""Inject faults, and check what an index keeps when a command is killed, the disk is full or a file is damaged.

    python -m benchmarks.faults [--points 200] [--seed 0] [--work DIR]

Each command (add, rescan, forget, compact, two conversions, growing into a basis, repair) runs in its own process with
the tests' fake encoder. There every write, rename, removal and fsync counts as an event, including those of SQLite, and
the process kills itself with SIGKILL at a random event of the whole run; half of the writes it dies in are left torn.
Then the index must open, verify clean, answer correctly and contain everything that was reported as committed; and the
same command, run again, must reach the state of an undisturbed run. The other faults have their own lines in the second
table. Limits are so small that a dozen photos make merges of merges, and every command that adds photos writes the
derived files of its last state.

A kill is not a power cut: data that a process has written survives a kill, synced or not. Therefore every rename is
checked: the file must be synced before it, and the folder before the transaction that names the file.
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

import filelock  # noqa: F401 - it is imported before a child becomes a user that may not read it
import numpy as np

from flairsearch.core.errors import FlairSearchError, StoreError, UsageError
from flairsearch.core.limits import STORE_LIMITS, WRITE_LIMITS, IngestLimits, StoreLimits, WriteLimits
from flairsearch.core.settings import FORMAT_VERSION, IndexSettings
from flairsearch.engine import Engine
from flairsearch.images.decoding import content_hash
from flairsearch.indexing import pipeline, repair  # noqa: F401 - Engine would import them in each child
from flairsearch.indexing.lifecycle import create_index, open_settings
from flairsearch.search import index_states, query_encoder  # noqa: F401 - Engine would import them in each child
from flairsearch.shortlist.shortlist import make_derived_files
from flairsearch.store.catalog import Catalog
from flairsearch.store.database import Database
from flairsearch.store.derived_files import checksum_matches
from flairsearch.store.snapshot import Snapshot
from flairsearch.store.writer import Writer
from tests.support.fake import PATCHES, FakeEncoder, expected_score, fake_settings, paint_red

ROOT = Path(__file__).resolve().parents[1]
NOBODY_UID = 65534
ATTENTION_SCALE = 5.0  # Scale of the encoder's logits: a soft attention hides rounding errors of 2-bit codecs.
LEFT_OVER = "left over"
SCORE_TOLERANCE = {"fp16": 0.01, "int8": 0.03, "q2": 0.1}  # Largest relative error of a score by codec.
# These limits make several commits, pieces and segments of a dozen photos.
SMALL_LIMITS = WriteLimits(
    StoreLimits(read_views=2, max_segment_views=5, size_tiers=(4, 8), merge_fan_in=2, min_basis_views=8),
    IngestLimits(batch_views=2, commit_views=2),
)


@dataclass
class Watch:
    """Counts the events of this process, and sends it a signal at one of them."""

    armed: bool = False  # Whether events are counted.
    count: int = 0
    at: int = 0  # Number of the event at which the signal is sent.
    signal: int = signal.SIGKILL
    torn: bool = False  # Whether half of the write is made before the signal.
    journal: int = -1  # File descriptor to which committed states are written.
    synced: set[int] = field(default_factory=set)  # Inodes of synced files.
    unsynced_folders: dict[int, str] = field(default_factory=dict)  # Renamed file by the inode of its folder.
    unsynced: list[str] = field(default_factory=list)  # Messages about missing syncs.


WATCH = Watch()


def event(write_half: Callable[[], object] | None = None, locked: bool = False) -> None:
    """Count a change on disk that is about to happen, and send the signal if it is the chosen one.

    write_half: makes half of the write. locked: SQLite may hold a lock that a reader waits for, so a process that is
    to be stopped runs on to the next event.
    """
    if not WATCH.armed:
        return
    WATCH.count += 1
    if WATCH.signal == signal.SIGSTOP and WATCH.count == WATCH.at and locked:
        WATCH.at += 1
    elif WATCH.count == WATCH.at:
        if write_half is not None and WATCH.torn:
            write_half()
        os.kill(os.getpid(), WATCH.signal)


def describe_exception() -> str:
    """Return the place and message of the current exception in one line."""
    _, error, trace = sys.exc_info()
    frames = traceback.extract_tb(trace)
    ours = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames if "site-packages" not in frame.filename]
    return f"{type(error).__name__} at {' '.join(ours[-4:])}: {error}"


class WatchedFile(io.FileIO):
    """A file whose writes are events."""

    def write(self, data):
        event(lambda: os.write(self.fileno(), bytes(data)[: len(bytes(data)) // 2]))
        WATCH.synced.discard(os.fstat(self.fileno()).st_ino)
        return super().write(data)

    def truncate(self, size=None):
        event()
        WATCH.synced.discard(os.fstat(self.fileno()).st_ino)
        return super().truncate(size)


def watched_open(file, mode="r", buffering=-1, encoding=None, *args, **options):
    """Replace io.open, which Path.open calls as well. Only files opened for writing are watched."""
    if "w" not in mode:
        return PLAIN_OPEN(file, mode, buffering, encoding, *args, **options)
    binary = io.BufferedWriter(WatchedFile(file, "w"))
    return binary if "b" in mode else io.TextIOWrapper(binary, encoding)


def watched_fsync(descriptor):
    """Replace os.fsync."""
    event()
    PLAIN_FSYNC(descriptor)
    inode = os.fstat(descriptor).st_ino
    WATCH.synced.add(inode)
    WATCH.unsynced_folders.pop(inode, None)


def on_audit(name: str, args: tuple) -> None:
    """Count renames, removals and new files, which Python audits just before they happen."""
    if not WATCH.armed:
        return
    if name == "os.rename" and isinstance(args[1], str | os.PathLike):
        target = Path(args[1])
        if os.stat(args[0]).st_ino not in WATCH.synced:
            WATCH.unsynced.append(f"{target.name} is renamed before it is synced")
        if target.parent.name in ("segments", "codecs"):  # Transactions name files of these folders.
            WATCH.unsynced_folders[target.parent.stat().st_ino] = target.name
        event()
    elif name in ("os.remove", "os.mkdir", "os.rmdir", "os.truncate") or (
        name == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
    ):
        event()


PLAIN_WRITE = Database.write


@contextmanager
def watched_write(database: Database) -> Iterator[sqlite3.Connection]:
    """Replace Database.write."""
    with PLAIN_WRITE(database) as connection:
        yield connection
        before_commit()


def before_commit() -> None:
    """Record the folders that are not synced before a transaction commits."""
    for name in WATCH.unsynced_folders.values():
        WATCH.unsynced.append(f"the folder of {name} is not synced before the transaction")
    WATCH.unsynced_folders.clear()
    event()


class Vfs(ctypes.Structure):
    """The head of SQLite's struct sqlite3_vfs, up to the functions that replace its system calls."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("version", "size", "path")),
        *((f"pointer{i}", ctypes.c_void_p) for i in range(16)),
        *((name, ctypes.c_void_p) for name in ("set_call", "get_call")),
    )


def watch_sqlite() -> bool:
    """Make SQLite's own writes events, so that the middle of a commit is one. Returns False without its library."""
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
    signatures = {
        "pwrite64": (ctypes.c_ssize_t, word, pointer, size, offset),
        "pwrite": (ctypes.c_ssize_t, word, pointer, size, offset),
        "write": (ctypes.c_ssize_t, word, pointer, size),
        "ftruncate": (word, word, offset),
        "unlink": (word, text),
    }
    for name, signature in signatures.items():
        address = get_call(vfs, name.encode())
        if address:
            prototype = ctypes.CFUNCTYPE(*signature, use_errno=True)
            callback = prototype(watched_call(name, prototype(address)))
            CALLBACKS.append(callback)
            set_call(vfs, name.encode(), ctypes.cast(callback, pointer))
    return True


CALLBACKS: list[object] = []  # SQLite points to these callbacks, so they must not be freed.


def watched_call(name: str, call: Callable[..., int]) -> Callable[..., int]:
    """Return a system call of SQLite that is an event."""

    def watched(*args):
        if "write" in name:
            event(lambda: call(*args[:2], args[2] // 2, *args[3:]), locked=True)
        else:
            event(locked=True)
        return call(*args)

    return watched


PLAIN_OPEN, PLAIN_FSYNC = io.open, os.fsync


def watch() -> None:
    """Replace the functions whose calls are events."""
    Snapshot.rows = partialmethod(Snapshot.rows, piece_views=2)  # Readers read in small pieces as well.
    io.open, os.fsync = watched_open, watched_fsync
    sys.addaudithook(on_audit)
    watch_sqlite()
    Database.write = watched_write
    for name in ("commit", "rewrite", "remove_root"):
        setattr(Catalog, name, journalled(getattr(Catalog, name)))


def journalled(method: Callable[..., None]) -> Callable[..., None]:
    """Wrap a change of the catalogue: the new listing is written to the journal right after the commit."""

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
    """Return the content hash of every image by its path."""
    query = "SELECT r.path || '/' || i.path, hex(hash) FROM images i JOIN roots r ON r.id = root"
    with catalog._database.read() as connection:
        rows = connection.execute(f"{query} JOIN contents c ON c.id = content ORDER BY 1").fetchall()
    return {path: digest.lower() for path, digest in rows}


class Encoder(FakeEncoder):
    """A fake encoder with softer attention, so that rounding to 2 bits per number does not change an order."""

    token_metric = np.diag(np.asarray([1, 1e-3, 1e-3, 1e-3], np.float32))  # The queries ask for red.

    def encode_texts(self, texts):
        """Encode as FakeEncoder does, with weights of e^(-2 ATTENTION_SCALE) for other colours instead of 0."""
        soft = np.asarray([-3 * ATTENTION_SCALE - np.log(PATCHES)], np.float32)
        return [replace(query, u=ATTENTION_SCALE * query.vector[None], c=soft) for query in super().encode_texts(texts)]


def open_engine(index: Path, codec: str = "fp16", limits: WriteLimits = WRITE_LIMITS) -> Engine:
    """Open or make an index with the fake encoder."""
    if not (index / "index.json").exists():
        try:
            create_index(index, replace(fake_settings(), codec=codec))
        except OSError as error:  # Engine.open does the same.
            raise StoreError(f"{index} cannot be made ({error.strerror})") from None
    # A process that expects few searches scores in numpy: to load numba takes longer than all else that a child does.
    return Engine(index, open_settings(index), Encoder(), limits=limits, expected_searches=1)


def search_shortlist(engine: Engine) -> None:
    """Search with a shortlist, from derived files that are written first where they are missing or damaged."""
    make_derived_files(Snapshot(engine.folder, engine.settings, engine._catalog))
    engine.search("red", 1, shortlist=2)


def run_command(job: dict) -> None:
    """Run the command that a job names."""
    with open_engine(Path(job["index"]), job.get("made", "fp16"), SMALL_LIMITS) as engine:
        match job["do"]:
            case "open":
                engine.search("red")
                search_shortlist(engine)
            case "add":
                engine.add(job.get("folders", ()))
            case "forget":
                with suppress(UsageError):  # The killed run may have forgotten it already.
                    engine.forget(job["path"])
            case "compact":
                for _ in engine.compact(job.get("codec")):
                    pass
            case "repair":
                engine.repair([damage for _, _, damages in engine.verify() for damage in damages])
            case "churn":
                churn(engine, job)


def churn(engine: Engine, job: dict) -> None:
    """Add, replace and remove photos for a number of cycles."""
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


def run_child(job: dict) -> None:
    """Run a job and end the process: by the signal of the job, or with exit code 0."""
    report: dict[str, object] = {"error": None, "crash": None}
    with PLAIN_OPEN(job["report"], "w") as out:
        WATCH.journal = os.open(job["journal"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        WATCH.at, WATCH.torn = job.get("at", 0), job.get("torn", False)
        WATCH.signal = signal.SIGSTOP if job.get("stop") else signal.SIGKILL
        if job.get("user"):
            os.setresuid(NOBODY_UID, NOBODY_UID, NOBODY_UID)
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (job.get("limit", hard), hard))
        WATCH.armed = True
        try:
            run_command(job)
        except FlairSearchError as error:
            report["error"] = str(error)
        except BaseException:
            report["crash"] = describe_exception()
        WATCH.armed = False
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        out.write(json.dumps(report | {"events": WATCH.count, "unsynced": WATCH.unsynced}))
    os._exit(0)


def serve() -> None:
    """Read jobs from stdin, fork a child for each, and print how it ended. Forking saves repeated imports."""
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
                run_child(job)
        _, status = os.waitpid(pid, os.WUNTRACED)
        signalled = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        print(json.dumps({"stopped": pid if os.WIFSTOPPED(status) else 0, "signal": signalled}), flush=True)


@dataclass
class World:
    """Photos with known answers, and the process that runs commands on them."""

    work: Path
    server: subprocess.Popen[str]
    painted: dict[str, int] = field(default_factory=dict)  # Number of red patches by content hash.
    baselines: dict[str, Baseline] = field(default_factory=dict)

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
        """Write a photo with a number of red patches."""
        self.painted[content_hash(paint_red(path, patches).read_bytes()).hex()] = patches


@dataclass
class Baseline:
    """The undisturbed run of a command."""

    job: dict
    photos: Path  # Folder with the photos that it runs on.
    index: Path | None  # Index that it starts from; None when it makes a new one.
    before: Observation
    after: Observation
    events: int  # Number of events of the run.
    states: list[dict[str, str]]  # Listings after each commit.
    unsynced: list[str]
    left_over: list[str]  # Files that it leaves to compaction.


@dataclass
class Observation:
    """The visible state of an index."""

    codec: str
    listing: dict[str, str]
    ranking: list[str]
    codecs: set[str]
    empty_rows: int  # Rows without a photo, in segments that compaction should rewrite.
    skipped: list[str]
    wrong: list[str] = field(default_factory=list, compare=False)  # Messages about errors.
    damaged: list[str] = field(default_factory=list, compare=False)  # Paths of damaged photos.


def observe(world: World, index: Path | None = None) -> Observation:
    """Open, verify and search an index, and compare every photo's tokens with the painted patches."""
    index = index or world.index
    seen = Observation("", {}, [], set(), 0, [])
    if not (index / "index.json").exists():
        return seen
    try:
        with open_engine(index) as engine:
            inspect(seen, world, engine)
    except Exception:  # Whatever the exception is, the index does not answer.
        seen.wrong.append(describe_exception())
    return seen


def inspect(seen: Observation, world: World, engine: Engine) -> None:
    """Fill in the observation of an open index."""
    catalog, seen.codec = engine._catalog, engine.settings.codec
    damage = [damage for _, _, damages in engine.verify() for damage in damages]
    seen.damaged = sorted(path for view in damage for path in view.paths)
    seen.listing = listing(catalog)
    seen.skipped = sorted(file.path for file in catalog.statistics.skipped())
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
    tolerance = max((SCORE_TOLERANCE[name] for name in seen.codecs), default=0)
    search_shortlist(engine)
    hits = engine.search("red", k=1000, shortlist="all")
    seen.ranking = [hit.path for hit in hits if hit.path in readable]
    seen.wrong += [f"{path} is not found" for path in sorted(readable.keys() - set(seen.ranking))]
    counts = [readable[path] for path in seen.ranking]
    if counts != sorted(counts, reverse=True):
        seen.wrong.append(f"ranked by patches: {counts}")
    for hit in hits:
        patches = readable.get(hit.path)
        if patches and abs(hit.score - expected_score(patches)) > tolerance * expected_score(patches):
            seen.wrong.append(f"{hit.path}: score {hit.score}, by the formula {expected_score(patches)}")


def find_left_over(index: Path) -> list[str]:
    """Return the files that an index does not refer to, and its segments without a view."""
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
    derived = [next((index / "prefilter").glob(f"{state.generation:06d}-*.{kind}"), None) for kind in kinds]
    expected |= {f"prefilter/{file.name}" for file in derived if file and checksum_matches(file)}
    found = {str(file.relative_to(index)) for file in index.rglob("*") if file.is_file()}
    return sorted(found - expected) + [f"segment {n} has no view" for n, count in rows.items() if not count]


def send(world: World, **job: object) -> None:
    """Send a job to the other process. `wait` returns its answer."""
    for name in ("journal", "report"):
        (world.work / name).unlink(missing_ok=True)
    paths = {name: str(world.work / name) for name in ("index", "journal", "report")}
    send_message(world, paths | job)


def send_message(world: World, message: dict) -> None:
    """Write a message to the other process."""
    world.server.stdin.write(json.dumps(message) + "\n")
    world.server.stdin.flush()


def has_answer(world: World) -> bool:
    """Return whether the other process has answered."""
    return bool(select.select([world.server.stdout], [], [], 0)[0])


def wait(world: World) -> dict:
    """Return how the child ended: its signal, its report, and the listings that it knew to be committed."""
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
    """Run a job and return how it ended."""
    send(world, **job)
    return wait(world)


def replace_folder(source: Path | None, target: Path) -> None:
    """Replace a folder by a copy of another one, or remove it when the source is None."""
    shutil.rmtree(target, ignore_errors=True)
    if source is not None:
        shutil.copytree(source, target)


@contextmanager
def make_world(work: Path) -> Iterator[World]:
    """Start the process, and make the photos and the undisturbed runs of the commands."""
    command = [sys.executable, "-c", "from benchmarks.faults import serve; serve()"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    server = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    world = World(work, server)
    try:
        make_baselines(world)
        yield world
    finally:
        server.stdin.close()
        server.wait()
        server.stdout.close()


def make_baselines(world: World) -> None:
    """Run the commands in order, each on the state that the last one left."""
    photos, more = world.photos, world.more
    for patches in (1, 3, 5, 8, 12, 18, 27):
        world.paint(photos / f"{patches}.png", patches)
    shutil.copy(photos / "8.png", photos / "twin.png")
    (photos / "text.png").write_text("no picture")
    for patches in (2, 40, 60):
        world.paint(more / f"{patches}.png", patches)
    add_baseline(world, "grow", {"do": "add", "folders": [str(photos), str(more)], "made": "q2"}, fresh=True)
    add_baseline(world, "add", {"do": "add", "folders": [str(photos), str(more)]}, fresh=True)
    # One photo changes, one moves, one goes and three are new.
    world.paint(photos / "5.png", 33)
    (photos / "sub").mkdir()
    (photos / "3.png").rename(photos / "sub" / "three.png")
    (photos / "18.png").unlink()
    for patches in (22, 50, 64):
        world.paint(photos / f"{patches}.png", patches)
    add_baseline(world, "rescan", {"do": "add"})
    add_baseline(world, "forget", {"do": "forget", "path": str(more)})
    add_baseline(world, "compact", {"do": "compact"})
    add_baseline(world, "to int8", {"do": "compact", "codec": "int8"})
    add_baseline(world, "to q2", {"do": "compact", "codec": "q2"})
    for file in sorted((world.index / "segments").glob("*.tokens"))[:2]:
        flip_bit(file, file.stat().st_size // 2)
    add_baseline(world, "repair", {"do": "repair"})


def add_baseline(world: World, name: str, job: dict, fresh: bool = False) -> None:
    """Run a command undisturbed and record its baseline. fresh: it starts without an index."""
    if fresh:
        replace_folder(None, world.index)
    kept = None if fresh else world.work / f"{name} before"
    if kept is not None:
        replace_folder(world.index, kept)
    replace_folder(world.photos, world.work / f"{name} photos")
    before = observe(world)
    ended = run(world, **job)
    if ended["error"] or ended["crash"]:
        raise RuntimeError(f"{name}: {ended['crash'] or ended['error']}")
    after = observe(world)
    replace_folder(world.index, world.work / f"{name} after")
    states = [before.listing, *ended["states"]]
    photos, left_over = world.work / f"{name} photos", find_left_over(world.index)
    world.baselines[name] = Baseline(
        job, photos, kept, before, after, ended["events"], states, ended["unsynced"], left_over
    )


def begin(world: World, name: str, after: bool = False) -> Baseline:
    """Restore the photos and the index to the state before a command, or after it."""
    base = world.baselines[name]
    replace_folder(world.work / f"{name} after" if after else base.index, world.index)
    if not same_files(base.photos, world.photos):
        replace_folder(base.photos, world.photos)
    return base


def same_files(first: Path, second: Path) -> bool:
    """Return whether two folders have files of the same names, sizes and times, which copies keep."""
    facts = [
        {p.relative_to(root): (p.stat().st_size, p.stat().st_mtime_ns) for p in root.rglob("*") if p.is_file()}
        for root in (first, second)
    ]
    return facts[0] == facts[1]


def flip_bit(file: Path, offset: int) -> None:
    """Flip the lowest bit of a byte."""
    data = bytearray(file.read_bytes())
    data[offset] ^= 1
    file.write_bytes(data)


def kill_points(world: World, count: int, seed: int) -> Iterator[tuple[str, bool, bool, list[str]]]:
    """Kill commands at random events. Yields (command, was killed, is a run after a kill, messages) for every point."""
    rng, done = random.Random(seed), 0
    for name in cycle(world.baselines):
        if done >= count:
            return
        base = begin(world, name)
        known, exact, again = base.before.listing, True, False
        while True:
            at, torn = rng.randint(1, base.events), rng.random() < 0.5
            ended = run(world, **base.job, at=at, torn=torn)
            known = ended["states"][-1] if ended["states"] else known
            wrong = after_kill(base, observe(world), known, ended["states"] if exact else None)
            if not ended["signal"]:
                wrong += check_end(world, base, ended)
            done += 1
            more = ended["signal"] and rng.random() < 0.25 and done < count
            if not more and ended["signal"]:
                wrong += check_end(world, base, run(world, **base.job))
            yield name, bool(ended["signal"]), again, [f"{name}, event {at}{' torn' * torn}: {w}" for w in wrong]
            if not more:
                break
            exact, again = False, True


def after_kill(
    base: Baseline, seen: Observation, known: dict[str, str], states: list[dict[str, str]] | None = None
) -> list[str]:
    """Return what is wrong with an index after a kill. known: the last listing that was reported as committed."""
    wrong = list(seen.wrong)
    extra = set(seen.damaged) - set(base.before.damaged)
    wrong += [f"damaged: {path}" for path in sorted(extra)]
    final = base.after.listing
    for path in sorted(known.keys() & final.keys() - seen.listing.keys()):
        wrong.append(f"lost: {path}")
    for path, digest in seen.listing.items():
        if digest not in (known.get(path), final.get(path)):
            wrong.append(f"{path} has neither its old nor its new content")
    if states is not None:  # The state must be that of the undisturbed run after this commit or the next.
        at = len(states)
        if seen.listing not in base.states[at : at + 2]:
            wrong.append(f"between two states, after commit {at} of {len(base.states) - 1}")
    return wrong


def check_end(world: World, base: Baseline, ended: dict) -> list[str]:
    """Return what is wrong after a command has run to its end."""
    if ended["signal"] or ended["error"] or ended["crash"]:
        return [f"the next run: {ended['signal'] or ended['error'] or ended['crash']}"]
    seen = observe(world)
    wrong = seen.wrong + [f"damaged at the end: {path}" for path in seen.damaged]
    if base.job["do"] == "compact" and seen.empty_rows:  # Other commands may leave empty rows.
        wrong.append(f"ends with {seen.empty_rows} rows without a photo")
    for name in ("codec", "listing", "ranking", "codecs", "skipped"):
        if getattr(seen, name) != getattr(base.after, name):
            wrong.append(f"ends with {name} {getattr(seen, name)}, undisturbed {getattr(base.after, name)}")
    return wrong + [f"{LEFT_OVER}: {name}" for name in find_left_over(world.index) if name not in base.left_over]


# Each of the following faults yields one list of messages for every try.


def check_error(ended: dict, words: str) -> list[str]:
    """Check that a command was refused with one line that contains `words`."""
    error = ended["error"]
    if error is None or words not in error or "\n" in error or ended["crash"]:
        return [f"expected one line with {words!r}, found {error or ended['crash'] or 'no error'}"]
    return []


def check_refused(action: Callable[[], object], words: str) -> list[str]:
    """Check the same of an action in this process."""
    try:
        action()
    except StoreError as error:
        return check_error({"error": str(error), "crash": None}, words)
    except Exception:
        return [describe_exception()]
    return [f"expected one line with {words!r}, found no error"]


def full_disk(world: World, rng: random.Random) -> Iterator[list[str]]:
    """Limit the size of files at random, so that the write that exceeds it fails."""
    for name in ("add", "to q2", "rescan", "forget", "compact", "to int8", "grow", "repair") * 3:
        base = begin(world, name)
        sizes = [file.stat().st_size for file in (world.work / f"{name} after").rglob("*") if file.is_file()]
        ended = run(world, **base.job, limit=rng.randrange(max(sizes)))
        known = ended["states"][-1] if ended["states"] else base.before.listing
        wrong = after_kill(base, observe(world), known)
        if ended["error"] or ended["crash"]:
            wrong += check_error(ended, "cannot be")
        yield wrong + check_end(world, base, run(world, **base.job))


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[bool]:
    """Mount a tmpfs of `size` bytes; yields False where mounting is not allowed."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def small_tmpfs(world: World, rng: random.Random) -> Iterator[list[str]]:
    """Run on a disk with room for a part of the run, then free the rest of the disk."""
    for name in ("add", "compact", "to q2") * 3:
        base = begin(world, name)
        with small_disk(world.work / "disk", 4 << 20) as mounted:
            if not mounted:
                return
            index, filler = world.work / "disk" / "index", world.work / "disk" / "filler"
            replace_folder(base.index, index)
            with filler.open("wb", buffering=0) as stream, suppress(OSError):
                while True:
                    stream.write(bytes(4096))
            os.truncate(filler, max(0, filler.stat().st_size - 4096 * rng.randrange(0, 40)))
            ended = run(world, **base.job, index=str(index))
            known = ended["states"][-1] if ended["states"] else base.before.listing
            wrong = check_error(ended, "cannot be") if ended["error"] or ended["crash"] else []
            filler.unlink()
            wrong += after_kill(base, observe(world, index), known)
            replace_folder(index, world.index)
        yield wrong + check_end(world, base, run(world, **base.job))


def read_only_folder(world: World, _rng: random.Random) -> Iterator[list[str]]:
    """Make an index read-only: writing is refused, reading works. Root runs as another user meanwhile."""
    if os.geteuid() == 0 and not may_become_nobody(world.work):
        return
    for name in ("rescan", "compact"):
        base = begin(world, name)
        files = [world.index, *world.index.rglob("*")]
        for path in files:
            path.chmod(0o555 if path.is_dir() else 0o444)
        ended = run(world, **base.job, user=os.geteuid() == 0)
        wrong = check_error(ended, "cannot be")
        with as_nobody():
            seen = observe(world)
        wrong += [f"read-only: {w}" for w in seen.wrong]
        wrong += ["reads differently when read-only"] * (seen != base.before)
        for path in files:
            with suppress(FileNotFoundError):  # SQLite removes its own files with the last reader.
                path.chmod(0o755 if path.is_dir() else 0o644)
        yield wrong + check_end(world, base, run(world, **base.job))


@contextmanager
def as_nobody() -> Iterator[None]:
    """Run as another user, because permissions do not restrict root."""
    if os.geteuid() != 0:
        yield
        return
    os.setresuid(NOBODY_UID, NOBODY_UID, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


def may_become_nobody(work: Path) -> bool:
    """Return whether the process may change its user, and that user may enter the folder."""
    try:
        with as_nobody():
            return os.access(work, os.X_OK, effective_ids=True)
    except OSError:
        return False


def flipped_bits(world: World, rng: random.Random) -> Iterator[list[str]]:
    """Flip a bit of a segment: verify names the photo of that row only, and repair restores it."""
    for name, kind in (("add", "tokens"), ("add", "pooled"), ("to q2", "tokens"), ("to q2", "pooled")) * 3:
        base = begin(world, name, after=True)
        file = rng.choice(sorted((world.index / "segments").glob(f"*.{kind}")))
        offset = rng.randrange(file.stat().st_size)
        hit = photos_of_row(world.index, int(file.stem), offset / file.stat().st_size)
        flip_bit(file, offset)
        yield check_damaged(world, hit) + check_repair(world, base)


def photos_of_row(index: Path, segment: int, share: float | None = None) -> list[str]:
    """Return the photos of a segment, or of its row at a share of its bytes."""
    catalog = Catalog(index)
    (count,) = (n for number, n, _ in catalog.state().segments if number == segment)
    views = catalog.segment_views(segment)
    chosen = views.live if share is None else views.live & (views.row == int(share * count))
    state = catalog.state().views
    contents = state.content[np.isin(state.id, views.id[chosen])].tolist()
    paths = sorted(path for images in catalog.images_of(contents).values() for _, path in images)
    catalog.close()
    return paths


def check_damaged(world: World, expected: list[str]) -> list[str]:
    """Check that verify names exactly the expected photos."""
    seen = observe(world)
    wrong = list(seen.wrong)
    if seen.damaged != expected:
        wrong.append(f"verify names {seen.damaged}, damaged is {expected}")
    return wrong


def check_repair(world: World, base: Baseline) -> list[str]:
    """Repair and compact the index, and check that nothing is damaged, lost or left over."""
    for job in ({"do": "repair"}, {"do": "compact"}):
        ended = run(world, **job)
        if ended["error"] or ended["crash"]:
            return [f"{job['do']}: {ended['error'] or ended['crash']}"]
    seen = observe(world)
    wrong = seen.wrong + [f"damaged after repair: {path}" for path in seen.damaged]
    if (seen.listing, seen.ranking) != (base.after.listing, base.after.ranking):
        wrong.append("not as before the damage")
    return wrong + [f"{LEFT_OVER}: {name}" for name in find_left_over(world.index)]


def cut_segment(world: World, rng: random.Random, remove: bool = False) -> Iterator[list[str]]:
    """Cut or remove a segment: verify names its views, the others answer, and repair restores them."""
    for name in ("add", "to q2"):
        for kind in ("tokens", "pooled"):
            base = begin(world, name, after=True)
            file = rng.choice(sorted((world.index / "segments").glob(f"*.{kind}")))
            expected = photos_of_row(world.index, int(file.stem))
            if remove:
                file.unlink()
            else:
                os.truncate(file, rng.randrange(file.stat().st_size))
            yield check_damaged(world, expected) + check_repair(world, base)


def lost_segment(world: World, rng: random.Random) -> Iterator[list[str]]:
    """Remove a segment."""
    yield from cut_segment(world, rng, remove=True)


def lost_basis(world: World, _rng: random.Random) -> Iterator[list[str]]:
    """Remove the basis: verify names all its views, and no new basis is fitted. Putting it back restores everything."""
    base = begin(world, "to q2", after=True)
    (file,) = (world.index / "codecs").glob("*.npz")
    file.rename(world.work / "basis")
    wrong = check_damaged(world, sorted(base.after.listing))
    wrong += check_error(run(world, do="add"), "no view that is undamaged - run flairsearch verify --repair")
    (world.work / "basis").rename(file)
    yield wrong + check_damaged(world, [])


def damage_basis(world: World, rng: random.Random, how: str) -> None:
    """Remove or cut the file of the basis, or flip a bit in it that matters."""
    (file,) = (world.index / "codecs").glob("*.npz")
    whole = file.read_bytes()
    file.unlink() if how == "missing" else file.write_bytes(whole[: rng.randrange(len(whole))])
    if how == "flipped":
        file.write_bytes(whole)
        flip_bit(file, whole.index(b"NUMPY") + 40)  # This byte is in the first array, which has a checksum.


def repaired_basis(world: World, rng: random.Random) -> Iterator[list[str]]:
    """Damage the basis: repair encodes the photos anew, the next run fits a new basis, and kills do no harm."""
    for number, how in enumerate(("missing", "cut", "flipped") * 4):
        base = begin(world, "to q2", after=True)
        damage_basis(world, rng, how)
        wrong = check_damaged(world, sorted(base.after.listing))
        for job in ({"do": "repair"}, {"do": "add"}):
            for _ in range(number % 4):  # Each round kills the command once.
                run(world, **job, at=rng.randint(1, 80), torn=rng.random() < 0.5)
                seen = observe(world)
                wrong += seen.wrong + ["a photo is lost"] * (seen.listing != base.after.listing)
            ended = run(world, **job)
            wrong += [f"{job['do']}: {ended['error'] or ended['crash']}"] * bool(ended["error"] or ended["crash"])
            seen = observe(world)
            wrong += seen.wrong + [f"damaged after {job['do']}: {path}" for path in seen.damaged]
        if (seen.listing, seen.ranking, seen.codecs) != (base.after.listing, base.after.ranking, {"q2"}):
            wrong.append(f"not as before the damage: {seen.ranking} in {seen.codecs}")
        yield [f"basis {how}: {w}" for w in wrong + [f"{LEFT_OVER}: {name}" for name in find_left_over(world.index)]]


def photos_beside_a_damaged_basis(world: World, rng: random.Random) -> Iterator[list[str]]:
    """Add photos beside a damaged basis: verify names exactly its views until they are repaired."""
    for how in ("missing", "cut", "flipped"):
        base = begin(world, "to q2", after=True)
        old = sorted(base.after.listing)
        damage_basis(world, rng, how)
        for patches in (2, 6, 10, 14, 16, 20, 24, 30, 40):
            world.paint(world.photos / "later" / f"{patches}.png", patches)
        ended = run(world, do="add")
        wrong = [ended["error"] or ended["crash"]] if ended["error"] or ended["crash"] else []
        wrong += check_damaged(world, old)
        for job in ({"do": "repair"}, {"do": "add"}):
            ended = run(world, **job)
            wrong += [f"{job['do']}: {ended['error'] or ended['crash']}"] * bool(ended["error"] or ended["crash"])
        wrong += check_damaged(world, [])
        yield [f"basis {how}: {w}" for w in wrong + [f"{LEFT_OVER}: {name}" for name in find_left_over(world.index)]]
    shutil.rmtree(world.photos / "later")


def flipped_basis(world: World, rng: random.Random) -> Iterator[list[str]]:
    """Flip a bit of the basis: it has no effect or gives one line of error, but never a wrong answer."""
    base = begin(world, "to q2", after=True)
    (file,) = (world.index / "codecs").glob("*.npz")
    whole = file.read_bytes()
    for offset in [0, len(whole) - 10, *(rng.randrange(len(whole)) for _ in range(14))]:
        flip_bit(file, offset)
        seen = observe(world)
        wrong = [f"byte {offset}: {w}" for w in seen.wrong]
        if seen.damaged not in ([], sorted(base.after.listing)):
            wrong.append(f"byte {offset}: verify names {seen.damaged}")
        ended = run(world, do="add", folders=[str(world.photos)])
        wrong += check_error(ended, "no view that is undamaged") if seen.damaged or ended["crash"] else []
        file.write_bytes(whole)
        yield wrong + check_damaged(world, [])


def damaged_cache(world: World, rng: random.Random) -> Iterator[list[str]]:
    """Delete, cut or flip derived files, or leave half of one: no photo is missed, and no bad file stays."""
    for name in ("add", "to q2", "forget"):
        for how in ("deleted", "cut", "flipped", "flipped in its header", "left by a power cut") * 2:
            base = begin(world, name, after=True)
            observe(world)  # This makes the derived files.
            for kind in ("faiss", "views"):
                (file,) = (world.index / "prefilter").glob(f"*.{kind}")
                size = file.stat().st_size
                match how:
                    case "deleted":
                        file.unlink()
                    case "cut":
                        os.truncate(file, rng.randrange(size))
                    case "flipped":
                        flip_bit(file, rng.randrange(80 if kind == "faiss" else 0, size))
                    case "flipped in its header":
                        flip_bit(file, rng.randrange(min(size, 81)))
                    case _:
                        shutil.copy(file, file.with_name(f"{rng.randrange(1, 99999)}.{kind}.part"))
            wrong = search_only(world, base)
            seen = observe(world)
            wrong += seen.wrong + ["the index changed"] * (seen != base.after)
            for job in ({"do": "open"}, {"do": "add"}):
                ended = run(world, **job)
                wrong += [f"{job['do']}: {ended['error'] or ended['crash']}"] * bool(ended["error"] or ended["crash"])
            wrong += [f"{LEFT_OVER}: {name}" for name in find_left_over(world.index) if name.startswith("prefilter")]
            yield [f"{name}, {how}: {w}" for w in wrong]


def search_only(world: World, base: Baseline) -> list[str]:
    """Return what is wrong with the answers of an index that is searched without verifying it."""
    try:
        with open_engine(world.index) as engine:
            search_shortlist(engine)
            found = [hit.path for hit in engine.search("red", k=1000, shortlist="all")]
    except Exception:
        return [describe_exception()]
    return [] if found == base.after.ranking else [f"finds {found}"]


def newer_catalogue(world: World, _rng: random.Random) -> Iterator[list[str]]:
    """A catalogue of a newer format beside current settings is refused, and nothing is changed."""
    base = begin(world, "rescan")
    for version in (FORMAT_VERSION + 1, 99):
        set_catalogue_format(world.index, version)
        before = (world.index / "catalog.sqlite").read_bytes()
        wrong = check_error(run(world, **base.job), "update flairsearch")
        wrong += check_refused(lambda: open_engine(world.index), "update flairsearch")
        wrong += ["the catalogue changed"] * ((world.index / "catalog.sqlite").read_bytes() != before)
        set_catalogue_format(world.index, FORMAT_VERSION)
        yield wrong + (["something was changed"] if observe(world) != base.before else [])
    yield check_end(world, base, run(world, **base.job))


def set_catalogue_format(index: Path, version: int) -> None:
    """Write another format number into the catalogue, and merge its log."""
    connection = sqlite3.connect(index / "catalog.sqlite")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def make_format_1(index: Path) -> None:
    """Turn an index into format 1: no number and no dates in the catalogue, and no derived files."""
    connection = sqlite3.connect(index / "catalog.sqlite")
    connection.execute("ALTER TABLE contents DROP COLUMN taken")
    connection.close()
    set_catalogue_format(index, 0)
    values = json.loads((index / "index.json").read_text())
    (index / "index.json").write_text(json.dumps(values | {"format": 1}, indent=2) + "\n")
    shutil.rmtree(index / "prefilter", ignore_errors=True)


def migration(world: World, rng: random.Random) -> Iterator[list[str]]:
    """Kill the migration of an index of format 1 at any event: the next command completes it."""
    for name, job in (("rescan", {"do": "open"}), ("to q2", {"do": "open"}), ("rescan", {"do": "add"})) * 5:
        base = begin(world, name)
        make_format_1(world.index)
        ended = run(world, **job, at=rng.randint(1, 24), torn=rng.random() < 0.5)
        found = formats(world.index)
        wrong = [f"index.json has format {found[0]}, the catalogue {found[1]}"] * (
            found not in ((1, 0), (FORMAT_VERSION, 0), (FORMAT_VERSION, FORMAT_VERSION))
        )
        known = ended["states"][-1] if ended["states"] else base.before.listing
        wrong += after_kill(base, observe(world), known)
        if formats(world.index) != (FORMAT_VERSION, FORMAT_VERSION):
            wrong.append(f"opened, index.json and the catalogue have the formats {formats(world.index)}")
        yield wrong + check_end(world, base, run(world, **base.job))


def formats(index: Path) -> tuple[int, int]:
    """Return the format numbers of index.json and of the catalogue."""
    connection = sqlite3.connect(index / "catalog.sqlite")
    (number,) = connection.execute("PRAGMA user_version").fetchone()
    connection.close()
    return json.loads((index / "index.json").read_text())["format"], number


def newer_format(world: World, _rng: random.Random) -> Iterator[list[str]]:
    """An index of a newer format is refused before anything is changed."""
    base = begin(world, "rescan")
    file = world.index / "index.json"
    old = file.read_text()
    values = json.loads(old)
    for newer in ({"format": values["format"] + 1}, {"format": values["format"] + 1, "unheard_of": [1]}):
        file.write_text(json.dumps(values | newer))
        wrong = check_error(run(world, **base.job), "update flairsearch")
        wrong += check_refused(lambda: open_engine(world.index), "update flairsearch")
        file.write_text(old)
        yield wrong + (["something was changed"] if observe(world) != base.before else [])
    yield check_end(world, base, run(world, **base.job))


def no_catalogue(world: World, _rng: random.Random) -> Iterator[list[str]]:
    """A catalogue that is missing, meaningless or cut gives one line of error."""
    base = begin(world, "rescan")
    file = world.index / "catalog.sqlite"
    whole = file.read_bytes()
    for data, words in ((None, "is missing"), (b"no catalogue" * 999, "is damaged"), (whole[:6000], "damaged")):
        file.unlink()
        if data is not None:
            file.write_bytes(data)
        wrong = check_error(run(world, **base.job), words) + check_refused(
            lambda: open_engine(world.index).search("red"), words
        )
        for name in ("catalog.sqlite-wal", "catalog.sqlite-shm"):
            (world.index / name).unlink(missing_ok=True)
        file.write_bytes(whole)
        yield wrong + (["something was changed"] if observe(world) != base.before else [])
    yield check_end(world, base, run(world, **base.job))


def two_writers(world: World, rng: random.Random) -> Iterator[list[str]]:
    """Stop a writer at any event: a second writer is refused with one line, until the first is killed."""
    for name in ("rescan", "compact", "forget", "grow"):
        base = begin(world, name)
        for ending in (signal.SIGCONT, signal.SIGKILL):
            begin(world, name)
            ended = run(world, **base.job, at=rng.randint(base.events * 2 // 5, base.events // 2), stop=True)
            if not ended["stopped"]:
                raise RuntimeError(f"{name} did not stop")
            words = "is being written by another process"
            settings = IndexSettings.load(world.index)
            wrong = check_refused(lambda settings=settings: Writer(world.index, settings).close(), words)
            send_message(world, {"go_on": ended["stopped"], "signal": ending})
            ended = wait(world)
            if ending == signal.SIGKILL:
                ended = run(world, **base.job)
            yield wrong + check_end(world, base, ended)


def stopped_writers(world: World, rng: random.Random) -> Iterator[list[str]]:
    """Stop a writer at any event: a reader sees the last state or the next one."""
    for name, base in [*world.baselines.items()] * 3:
        begin(world, name)
        ended = run(world, **base.job, at=rng.randint(1, base.events), stop=True)
        known = ended["states"][-1] if ended["states"] else base.before.listing
        wrong = after_kill(base, observe(world), known, ended["states"])
        if ended["stopped"]:
            send_message(world, {"go_on": ended["stopped"], "signal": signal.SIGCONT})
            ended = wait(world)
        yield wrong + check_end(world, base, ended)


def busy_reader(world: World, rng: random.Random, cycles: int = 12) -> Iterator[list[str]]:
    """Search while the other process adds, forgets and compacts: the reader sees whole states in order."""
    pool, photos = world.work / "pool", world.work / "churned"
    for patches in range(1, 33, 2):
        world.paint(pool / f"{patches}.png", patches)
    replace_folder(pool, photos)
    replace_folder(None, world.index)
    with open_engine(world.index) as engine:
        folders = {"pool": str(pool), "photos": str(photos)}
        send(world, do="churn", **folders, cycles=cycles, seed=rng.random())
        seen: list[dict[str, int]] = [{}]
        wrong = []
        while not has_answer(world):
            try:
                found = {hit.path: patches_of(hit.score) for hit in engine.search("red", k=1000, shortlist="all")}
            except Exception:
                wrong.append(describe_exception())
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
            wrong.append(f"state {number} of {len(seen)} the reader saw is older than one it saw before")
        else:
            wrong.append(f"state {number} of {len(seen)} the reader saw was never committed")
    if ended["error"] or ended["crash"]:
        wrong.append(ended["error"] or ended["crash"])
    if len(seen) < min(cycles, 3):
        wrong.append(f"it saw {len(seen)} states only")
    yield wrong + observe(world).wrong + [f"{LEFT_OVER}: {name}" for name in find_left_over(world.index)]


def swapped_photos(world: World, rng: random.Random) -> Iterator[list[str]]:
    """Swap the paths of photos while small segments merge: every photo is found after each run."""
    pool, photos = world.work / "pool", world.work / "churned"
    for patches in range(1, 33, 2):
        world.paint(pool / f"{patches}.png", patches)
    replace_folder(pool, photos)
    replace_folder(None, world.index)
    for _ in range(30):
        ended = run(world, do="churn", pool=str(pool), photos=str(photos), cycles=2, seed=rng.random())
        yield observe(world).wrong + [ended["error"] or ended["crash"]] * bool(ended["error"] or ended["crash"])


def patches_of(score: float) -> int:
    """Return the number of red patches that gives this score."""
    return min(range(1, 65), key=lambda patches: abs(expected_score(patches) - score))


def order_of_syncs(world: World, _rng: random.Random) -> Iterator[list[str]]:
    """Check that files are synced before their rename and folders before the commit, which a power cut needs."""
    for name, base in world.baselines.items():
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
    parser = argparse.ArgumentParser(description="Check what an index keeps when things go wrong.")
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="empty folder on the disk to test (default: a temporary folder)")
    args = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=args.work) as work:
        Path(work).chmod(0o755)
        with make_world(Path(work)) as world:
            tally: Counter[tuple[str, str]] = Counter()
            problems = []
            for name, killed, again, wrong in kill_points(world, args.points, args.seed):
                tally[name, "points"] += 1
                tally[name, "kills"] += killed
                tally[name, "again"] += again
                litter = [w for w in wrong if LEFT_OVER in w]
                tally[name, "left over"] += bool(litter)
                tally[name, "losses"] += len(wrong) > len(litter)
                problems += wrong
            print(f"{args.points} kill points, seed {args.seed}; a loss is anything that is wrong after the kill\n")
            print("| command | events | points | points in a run after a kill | kills | losses | files left over |")
            print("|---|---|---|---|---|---|---|")
            columns = ("points", "again", "kills", "losses", "left over")
            for name, base in world.baselines.items():
                print(f"| {name} | {base.events} | {' | '.join(str(tally[name, c]) for c in columns)} |")
            sums = [sum(n for (_, c), n in tally.items() if c == column) for column in columns]
            print(f"| all | | {' | '.join(map(str, sums))} |")
            print("\n| other fault | tries | tries with an error |\n|---|---|---|")
            for fault in FAULTS:
                tries = list(fault(world, random.Random(args.seed)))
                name = fault.__name__.replace("_", " ")
                print(f"| {name} | {len(tries) or 'not possible here'} | {sum(map(bool, tries))} |", flush=True)
                problems += [f"{name}: {w}" for messages in tries for w in messages]
    print(f"\n{time.monotonic() - began:.0f} s")
    for problem, times in Counter(problems).items():
        print(f"{times} x {problem}")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
