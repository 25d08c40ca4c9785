"""The public API: its names, its types for a client's type checker, and threads that share an Engine."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

import flairsearch
from tests.support.fake import fake_engine, mosaic

CLIENT = """
from __future__ import annotations

from pathlib import Path

import numpy as np
from flairsearch import Engine, Filter, Hit, ImageExample, IndexReport, Query, Region, SearchRequest, SearchResult
from flairsearch import FLAIR, FlairSearchError, UsageError, load_model


def boxes(result: SearchResult) -> list[tuple[int, int, int, int]]:
    return [region.box for hit in result for region in hit.regions]


def best(engine: Engine, text: str) -> Hit | None:
    result = engine.search(text, k=1)
    return result[0] if result else None


def run(folder: Path, photos: Path) -> int:
    with Engine.open(folder, device="cpu") as engine:
        report: IndexReport = engine.add(photos, ignore=["*.png"])
        query = Query(["white puppy", "black ears"], exclude="leash", position="left", min_area="5%")
        only = Filter(folder=photos, since="2024", extension=["jpg"])
        request = SearchRequest(query, only, k=5, shortlist="all")
        results: list[SearchResult] = engine.search_many([request, "a dog", Query(image=ImageExample("a.jpg"))])
        try:
            engine.search("a", offset=-1)
        except UsageError as error:
            name: str | None = error.parameter
            print(name)
        except FlairSearchError:
            raise
        hit = best(engine, "a dog")
        region: Region | None = hit.regions[0] if hit and hit.regions else None
        if hit is not None:
            plain = hit.to_dict()
            path: str = plain["path"]
            print(path, region, hit.date)
        seconds: float = sum(results[0].stats.seconds.values())
        print(seconds, results[0].warnings, results[0].complete)
        return report.added + len(boxes(results[0]))


def logits(model: FLAIR) -> None:
    print(model.name)


def load() -> FLAIR:
    return load_model("flair-small", device="cpu")
"""


def test_every_public_name_is_there() -> None:
    assert sorted(flairsearch.__all__) == sorted(flairsearch._HOMES) == sorted(set(flairsearch.__all__))
    for name in flairsearch.__all__:
        assert getattr(flairsearch, name).__name__ == name
    assert dir(flairsearch) == sorted(flairsearch.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Terms'"):
        _ = flairsearch.Terms


@pytest.mark.slow
def test_a_client_passes_mypy_in_strict_mode(tmp_path: Path) -> None:
    """The package has its types: nothing that a client uses is Any by accident or missing."""
    client = tmp_path / "client.py"
    client.write_text(CLIENT, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", "", "--cache-dir", str(tmp_path), str(client)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(flairsearch.__file__).parents[1])
    assert done.returncode == 0, done.stdout + done.stderr
    wrong = CLIENT.replace("region.box for", "region.places for")
    client.write_text(wrong, encoding="utf-8")
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(flairsearch.__file__).parents[1])
    assert '"Region" has no attribute "places"' in done.stdout


def query_of(text: str, position: str) -> flairsearch.Query:
    return flairsearch.Query(text, position=position or ())


def test_threads_share_an_engine_beside_a_writer(tmp_path: Path) -> None:
    """Every answer is that of some whole state: the photos of the first folder are in it, in their order."""
    for number in range(30):
        mosaic(tmp_path / "photos" / f"{number}.png", number)
    with fake_engine(tmp_path / "index") as engine:
        engine.add(tmp_path / "photos")
        texts = ("red", "blue", "white", "green")
        expected = {
            (text, position): [(hit.path, hit.score) for hit in engine.search(query_of(text, position), 30)]
            for text in texts
            for position in ("", "left")
        }
        wrong: list[object] = []

        def search(text: str) -> None:
            try:
                for turn in range(50):
                    position = "left" if turn % 2 else ""
                    hits = engine.search(query_of(text, position), 60)
                    found = [(hit.path, hit.score) for hit in hits if f"{tmp_path}/photos/" in hit.path]
                    right = [(path, pytest.approx(score, abs=1e-6)) for path, score in expected[text, position]]
                    if found != right:
                        wrong.append((text, turn, found))
            except Exception as error:
                wrong.append(error)

        threads = [threading.Thread(target=search, args=(text,)) for text in texts]
        for thread in threads:
            thread.start()
        with fake_engine(tmp_path / "index") as writer:
            for number in range(30, 42):
                mosaic(tmp_path / "more" / f"{number}.png", number)
                writer.add(tmp_path / "more")
        for thread in threads:
            thread.join()
        assert wrong == []
        assert len(engine.search("red", 60)) == 42
