"""Reading photos ahead of the model: the order, the bounds, and contents that are known already."""

import threading

import pytest
from PIL import Image

from flairsearch.core.types import ImageFile
from flairsearch.images import loading
from flairsearch.images.decoding import content_hash, decode, read_bytes
from flairsearch.images.loading import Failed, Loaded, load_all
from tests.support.fake import SIZE


def centre(picture):
    """The colour in the middle."""
    return tuple(int(value) for value in picture.pixels[SIZE // 2, SIZE // 2])


def files(folder, count):
    """Photos of a single grey each, whose value is the number of the photo."""
    for number in range(count):
        Image.new("L", (8, 8), number).save(folder / f"{number:03d}.png")
    return [ImageFile(str(folder), f"{number:03d}.png", 0, 0) for number in range(count)]


def test_load_all_keeps_the_order(tmp_path):
    todo = files(tmp_path, 100)
    (tmp_path / "040.png").write_bytes(b"x")
    results = list(load_all(todo, "squash", SIZE, set(), workers=4))
    assert [result.file for result in results] == todo
    for number, result in enumerate(results):
        if number == 40:
            assert result == Failed(todo[40], "not a picture in a known format")
        else:
            assert result.hash == content_hash((tmp_path / todo[number].path).read_bytes())
            assert centre(result.pictures[0]) == (number, number, number)


def test_load_all_reads_a_bounded_number_ahead(tmp_path, monkeypatch):
    todo = files(tmp_path, 200)
    read = []
    monkeypatch.setattr(loading, "read_bytes", lambda path: read.append(path) or read_bytes(path))
    taken = []
    results = load_all((taken.append(file) or file for file in todo), "squash", SIZE, set(), workers=2)
    for done in range(1, 101):
        next(results)
        assert len(taken) <= done + 64
    results.close()
    assert len(read) <= 164  # Closing the generator starts no new file.
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


@pytest.mark.parametrize(("views", "ahead"), [("tiles:4", 9), ("tiles:64", 3)])
def test_load_all_counts_views_ahead(tmp_path, views, ahead):
    """64 views are decoded ahead, with up to 7 views a photo, but at least one photo for each thread."""
    todo, taken = files(tmp_path, 40), []
    for done, _ in enumerate(load_all((taken.append(f) or f for f in todo), views, SIZE, set(), workers=3), 1):
        assert len(taken) <= done + ahead
    assert taken == todo


def test_known_contents_are_not_decoded(tmp_path, monkeypatch):
    todo = files(tmp_path, 3)
    known_hashes = {content_hash((tmp_path / "001.png").read_bytes())}
    decoded = []
    monkeypatch.setattr(loading, "decode", lambda data, *rest: decoded.append(data) or decode(data, *rest))
    results = list(load_all(todo, "squash", SIZE, known_hashes))
    assert len(decoded) == 2
    assert [isinstance(r, Loaded) and r.pictures is None for r in results] == [False, True, False]
    assert results[1].hash in known_hashes
