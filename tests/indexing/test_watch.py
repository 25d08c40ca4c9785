"""`flairsearch index --watch`: what is news, and a real process that follows a real folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flairsearch.core.errors import FlairSearchError
from flairsearch.engine import Engine
from flairsearch.indexing import watch as watching
from flairsearch.store.writer import Writer
from tests.support.command import RunCommand, settle
from tests.support.fake import paint_red
from tests.support.random_flair import random_flair, save_flair

pytest.importorskip("watchfiles")


def told(news: Iterator[bool], ticks: int = 10) -> bool:
    """Whether it says within some seconds that something is new."""
    return any(next(news) for _ in range(ticks))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a photo."""
    paint_red(tmp_path / "photos" / "3.png", 3)
    return tmp_path / "photos"


def watch(root: Path, apart: Path) -> Iterator[bool]:
    """With less patience."""
    return watching.watch(lambda: [str(root)], str(apart), debounce_ms=150, poll_ms=250)


def follow(root: Path, apart: Path) -> Iterator[bool]:
    news = watch(root, apart)
    assert next(news)  # This happened before the watch began.
    assert not told(news, 2)
    return news


def test_photos_and_folders_are_news(root: Path, tmp_path: Path) -> None:
    news = follow(root, tmp_path / "index")
    paint_red(root / "4.png", 4)
    assert told(news)
    os.utime(root / "4.png", ns=(1, 1))
    assert told(news)
    (root / "4.png").unlink()
    assert told(news)
    paint_red(root / "new" / "trip.2024" / "5.png", 5)
    assert told(news)
    assert not told(news, 2)
    paint_red(root / "new" / "trip.2024" / "6.png", 6)  # A folder that was added later is watched, too.
    assert told(news)
    (root / "new" / "trip.2024").rename(tmp_path / "elsewhere")
    assert told(news)


def test_other_files_the_index_and_hidden_ones_are_none(root: Path, tmp_path: Path) -> None:
    root = root.rename(tmp_path / ".photos")  # A hidden folder is watched if it is a root.
    news = follow(root, root / "index")
    (root / "notes.txt").write_text("no photo")
    paint_red(root / "index" / "4.png", 4)
    paint_red(root / "index.rebuilding" / "4.png", 4)
    (root / ".hidden").mkdir()
    paint_red(root / ".hidden" / "5.png", 5)
    assert not told(news, 3)
    paint_red(root / "6.png", 6)
    assert told(news)


@pytest.mark.parametrize(("photos", "index"), [("link", "real"), ("real", "link")])
def test_the_index_is_told_by_whatever_way_it_is_reached(root: Path, tmp_path: Path, photos: str, index: str) -> None:
    """A run writes to the index: were that news, a run would follow a run for ever."""
    (tmp_path / "link").symlink_to(root)
    reached = {"link": tmp_path / "link", "real": root}
    written = [root / name for name in ("index/last-run.json.part", "index/segments/1.part", "index.rebuilding/x.png")]
    for file in written:
        file.parent.mkdir(exist_ok=True, parents=True)
    news = watch(reached[photos], reached[index] / "index")
    assert next(news)
    for file in written:  # A path that is gone may have been a photo.
        file.write_bytes(b"new")
        file.unlink()
    paint_red(root / "index" / "4.png", 4)
    assert not told(news, 2)
    paint_red(root / "6.png", 6)
    assert told(news)


def test_a_folder_that_goes_and_comes_back_is_watched_again(root: Path, tmp_path: Path) -> None:
    news = follow(root, tmp_path / "index")
    root.rename(tmp_path / "away")
    assert told(news)
    assert not told(news, 3)
    (tmp_path / "away").rename(root)
    assert told(news)
    paint_red(root / "4.png", 4)
    assert told(news)
    shutil.rmtree(root)  # The new folder may even get the same inode.
    paint_red(root / "5.png", 5)
    assert told(news)
    assert not told(news, 2)
    paint_red(root / "6.png", 6)
    assert told(news)


def test_what_happens_meanwhile_is_told(root: Path, tmp_path: Path) -> None:
    news = follow(root, tmp_path / "index")
    paint_red(root / "4.png", 4)
    time.sleep(0.5)  # The caller is busy for a while.
    assert told(news, 3)


def test_without_the_extra_it_is_one_line(root: Path, run: RunCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "find_spec", lambda name: None)
    with pytest.raises(FlairSearchError):
        watching.check_installed()
    done = run("index", root, "--watch", "--index", root.parent / "index")
    assert done.code == 1
    assert done.message == 'flairsearch: watching folders is not installed - pip install "flairsearch[watch]"'
    assert not (root.parent / "index").exists()


class Watcher:
    """`flairsearch index --watch` in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "flairsearch", "index", "--watch", *arguments],
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # A background job has no terminal.
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr
        for line in self._process.stderr:
            self.lines.append(line.rstrip("\n"))

    def wait_for(self, text: str, seconds: float = 30) -> str:
        """A line with that text, that did not come before."""
        return wait(
            lambda: next((self.lines.pop(i) for i, line in enumerate(self.lines) if text in line), None), seconds
        )

    def stop(self) -> int:
        self._process.send_signal(signal.SIGINT)
        return self.ended()

    def ended(self) -> int:
        code = self._process.wait(30)
        self._reader.join()
        assert self._process.stderr
        self._process.stderr.close()
        return code

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self.ended()


def wait(ask: Callable[[], str | None], seconds: float) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := ask():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    work = tmp_path / "work"
    paint_red(work / "photos" / "3.png", 3)
    save_flair(random_flair(), work / "small.safetensors")
    settle(work, monkeypatch)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return work


@pytest.fixture
def watcher(home: Path) -> Iterator[Watcher]:
    watcher = Watcher("photos", "--model", "small.safetensors", "--device", "cpu", "--ignore", "x*")
    watcher.wait_for("1 added")
    watcher.wait_for("watching photos; Ctrl-C ends it")
    yield watcher
    watcher.kill()


@pytest.mark.slow
def test_a_folder_is_followed(home: Path, watcher: Watcher, run: RunCommand) -> None:
    """New, changed, slowly copied and removed photos; other commands in between; Ctrl-C is no error."""
    photos = home / "photos"
    paint_red(photos / "9.png", 9)
    paint_red(photos / "x.png", 9, mark=3)
    assert watcher.wait_for("1 added").endswith("1 added, 1 unchanged")
    assert "2 in " in run("status").out
    assert "1 photos removed" in run("forget", "photos/3.png").err  # The lock is free between runs.
    (photos / "9.png").unlink()
    assert watcher.wait_for("1 removed").endswith("1 added, 1 removed")
    (photos / "9.png").write_bytes(b"")
    watcher.wait_for("skipped: photos/9.png")
    whole = paint_red(home / "whole.bmp", 20).read_bytes()
    with (photos / "20.bmp").open("wb") as stream:  # A large photo is being copied.
        for start in range(0, len(whole), len(whole) // 5):
            stream.write(whole[start : start + len(whole) // 5])
            stream.flush()
            time.sleep(0.4)
    assert "1 added" in watcher.wait_for("1 added")
    with Engine.open(create=False) as engine:
        assert engine.status().images == 2
        shown = {Path(hit.path).name: hit.image for hit in engine.search("a red ball", k=9)}
    assert set(shown) == {"3.png", "20.bmp"}
    photos.rename(home / "away")
    assert "its 2 photos stay in the index" in watcher.wait_for("warning: ")
    paint_red(home / "away" / "30.png", 30)
    (home / "away").rename(photos)
    assert "1 added, 2 unchanged" in watcher.wait_for("1 added")
    with Engine.open(create=False) as engine:
        assert engine.status().images == 3
        assert {Path(hit.path).name: hit.image for hit in engine.search("a red ball", k=9)}.items() >= shown.items()
    assert watcher.stop() == 0
    assert watcher.lines[-1] == "stopped watching; what was committed is kept"
    assert sum("stopped" in line for line in watcher.lines) == 1
    assert not any("Traceback" in line for line in watcher.lines)


@pytest.mark.slow
def test_another_writer_is_waited_for_and_a_rebuilt_index_is_opened_anew(
    home: Path,
    watcher: Watcher,
    run: RunCommand,
) -> None:
    with Engine.open(create=False) as engine:
        folder, settings = engine.folder, engine.settings
    writer = Writer(folder, settings)
    paint_red(home / "photos" / "9.png", 9)
    assert "being written by another process" in watcher.wait_for("waiting: ")
    writer.close()
    watcher.wait_for("1 added")
    save_flair(random_flair(seed=1), home / "other.safetensors")
    assert run("index", "--rebuild", "--model", "other.safetensors", "--views", "center").code == 0
    paint_red(home / "photos" / "20.png", 20)
    watcher.wait_for("1 added", 40)
    assert run("verify").code == 0
    with Engine.open(create=False) as engine:  # All views are of the other model; otherwise the answers would differ.
        assert engine.settings.model == "other"
        scores = {Path(hit.path).name: hit.score for hit in engine.search("a red ball", k=9)}
    with Engine.open(home / "again", "other.safetensors", views="center", device="cpu") as engine:
        engine.add("photos", ["x*"])
        assert {Path(hit.path).name: hit.score for hit in engine.search("a red ball", k=9)} == pytest.approx(
            scores, abs=1e-3
        )
    assert watcher.stop() == 0
