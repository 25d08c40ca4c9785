import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flairsearch.core.errors import UsageError
from flairsearch.core.limits import INGEST_LIMITS, IngestLimits, StoreLimits
from flairsearch.core.reports import IndexReport, Progress, Skipped
from flairsearch.images import decoding, loading
from flairsearch.indexing.lifecycle import create_index
from flairsearch.indexing.pipeline import ingest
from flairsearch.store.catalog import Catalog
from flairsearch.store.snapshot import Snapshot
from flairsearch.store.writer import Writer
from tests.support.fake import DIM, SIZE, FakeEncoder, fake_engine, fake_settings, paint, paint_red

SETTINGS = fake_settings()


class Index(FakeEncoder):
    """An index under test, and the encoder of its runs, which counts the views it encodes; files read are recorded."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.read, self.encoded, self.encode = folder, [], 0, super().encode_images
        create_index(folder, SETTINGS)
        read_bytes = loading.read_bytes
        monkeypatch.setattr(loading, "read_bytes", lambda path: self.read.append(path) or read_bytes(path))

    def encode_images(self, pictures):
        self.encoded += len(pictures)
        return self.encode(pictures)

    def steps(self, *folders, ignore=(), limits=INGEST_LIMITS):
        self.read, self.encoded = [], 0
        writer = Writer(self.folder, SETTINGS)
        try:
            yield from ingest(writer, [str(folder) for folder in folders], self, ignore, limits)
        finally:
            writer.close()

    def add(self, *folders, ignore=(), limits=INGEST_LIMITS):
        *_, report = self.steps(*folders, ignore=ignore, limits=limits)
        return report

    def images(self):
        """Absolute path -> image id, of all roots."""
        catalog = Catalog(self.folder)
        found = {
            f"{root}/{path}": known.image
            for root, number in catalog.roots().items()
            for path, known in catalog.known(number).items()
        }
        catalog.close()
        return found

    def ask(self, method, *args):
        catalog = Catalog(self.folder)
        answer = getattr(catalog.statistics if method == "skipped" else catalog, method)(*args)
        catalog.close()
        return answer


@pytest.fixture
def index(tmp_path, monkeypatch):
    return Index(tmp_path / "index", monkeypatch)


@pytest.fixture
def photos(tmp_path):
    """Five photos, each of its own content."""
    for number in range(1, 6):
        paint_red(tmp_path / "photos" / f"{number}.png", number)
    return tmp_path / "photos"


def test_progress_counts_what_has_to_be_read_and_the_report_is_last(index, photos):
    *steps, report = index.steps(photos)
    assert steps == [Progress(done, 5, 0) for done in range(6)]
    assert report == IndexReport(added=5)


def test_unchanged_files_are_not_opened_again(index, photos):
    index.add(photos)
    assert sorted(index.read) == sorted(str(path) for path in photos.iterdir())
    generation = index.ask("generation")
    assert index.add(photos) == index.add() == IndexReport(unchanged=5)
    assert (index.read, index.encoded, index.ask("generation")) == ([], 0, generation)


def test_only_what_changed_is_read(index, photos):
    index.add(photos)
    ids = index.images()
    paint_red(photos / "2.png", 40)
    paint_red(photos / "new.png", 50)
    (photos / "4.png").unlink()
    assert index.add(photos) == IndexReport(added=1, updated=1, removed=1, unchanged=3)
    assert sorted(index.read) == [str(photos / "2.png"), str(photos / "new.png")]
    assert index.encoded == 2
    now = index.images()
    assert now.pop(str(photos / "new.png")) > max(ids.values())
    del ids[str(photos / "4.png")]
    assert now == ids


def test_a_file_that_was_only_touched_is_not_encoded(index, photos):
    index.add(photos)
    os.utime(photos / "3.png", ns=(1, 1))
    assert index.add(photos) == IndexReport(updated=1, unchanged=4)
    assert (len(index.read), index.encoded) == (1, 0)
    assert index.add(photos) == IndexReport(unchanged=5)


def test_a_moved_file_keeps_its_id_and_is_not_encoded(index, photos, tmp_path):
    index.add(photos)
    ids = index.images()
    (photos / "sub").mkdir()
    (photos / "1.png").rename(photos / "sub" / "one.png")
    (photos / "2.png").rename(photos / "6.png")
    assert index.add(photos) == IndexReport(moved=2, unchanged=3)
    assert index.encoded == 0
    now = index.images()
    assert now[str(photos / "sub" / "one.png")] == ids[str(photos / "1.png")]
    assert now[str(photos / "6.png")] == ids[str(photos / "2.png")]
    assert len(now) == 5


def test_a_renamed_folder_and_a_move_between_roots(index, photos, tmp_path):
    other = tmp_path / "other"
    paint_red(other / "a" / "7.png", 7)
    paint_red(other / "8.png", 8)
    index.add(photos, other)
    ids = index.images()
    (other / "a").rename(other / "b")
    (photos / "1.png").rename(other / "1.png")
    assert index.add() == IndexReport(moved=2, unchanged=5)
    now = index.images()
    assert now[str(other / "b" / "7.png")] == ids[str(other / "a" / "7.png")]
    assert now[str(other / "1.png")] == ids[str(photos / "1.png")]


def test_files_that_changed_their_names_with_each_other(index, photos):
    for name, stamp in (("1.png", 1), ("2.png", 2)):
        os.utime(photos / name, ns=(stamp, stamp))
    index.add(photos)
    ids, before = index.images(), {path: index.ask("views_at", path) for path in index.images()}
    one, two = photos / "1.png", photos / "2.png"
    one.rename(photos / "x")
    two.rename(one)
    (photos / "x").rename(two)
    assert index.add(photos) == IndexReport(updated=2, unchanged=3)
    assert index.images() == ids
    assert index.encoded == 0
    assert index.ask("views_at", str(one)) == before[str(two)]
    assert index.ask("views_at", str(two)) == before[str(one)]


def test_identical_files_share_their_views(index, photos):
    shutil.copy(photos / "1.png", photos / "1 again.png")
    assert index.add(photos) == IndexReport(added=6)
    assert index.encoded == 5
    shutil.copy(photos / "1.png", photos / "1 once more.png")
    assert index.add(photos) == IndexReport(added=1, unchanged=6)
    assert index.encoded == 0
    assert index.ask("counts") == (7, 5)
    (photos / "1.png").unlink()
    assert index.add(photos) == IndexReport(removed=1, unchanged=6)
    assert index.ask("counts") == (6, 5)


def test_a_photo_that_comes_back_is_not_encoded_again(index, photos):
    index.add(photos)
    (photos / "1.png").rename(photos.parent / "away.png")
    index.add(photos)
    (photos.parent / "away.png").rename(photos / "1.png")
    assert index.add(photos) == IndexReport(added=1, unchanged=4)
    assert index.encoded == 0


def test_a_damaged_photo_keeps_what_is_known_of_it_and_is_tried_again(index, photos):
    index.add(photos)
    (photos / "1.png").write_bytes(b"half")
    (photos / "empty.jpg").write_bytes(b"")
    report = index.add(photos)
    assert report == IndexReport(
        unchanged=4,
        skipped=(
            Skipped(str(photos / "empty.jpg"), "the file is empty"),
            Skipped(str(photos / "1.png"), "not a picture in a known format"),
        ),
    )
    assert list(report.skipped) == index.ask("skipped")
    assert len(index.images()) == 5
    paint_red(photos / "1.png", 60)
    (photos / "empty.jpg").unlink()
    assert index.add(photos) == IndexReport(updated=1, unchanged=4)
    assert index.ask("skipped") == []


def test_an_ignored_file_is_not_indexed(index, photos):
    assert index.add(photos, ignore=["[12].png"]) == IndexReport(added=3)


def test_no_file_is_indexed_twice_whatever_the_order_of_folders(index, photos):
    inner = photos / "inner"
    paint_red(inner / "6.png", 6)
    paint_red(photos / "away" / "inner" / "7.png", 7)  # This folder has the same name, but is no root.
    assert index.add(inner) == IndexReport(added=1)
    assert index.add(photos) == IndexReport(added=6, unchanged=1)
    assert len(index.images()) == 7
    assert index.add() == IndexReport(unchanged=7)
    paint_red(inner / "8.png", 8)
    assert index.add(inner) == IndexReport(added=1, unchanged=1)
    paint_red(inner / "9.png", 9)
    assert index.add(photos) == IndexReport(added=1, unchanged=8)
    assert index.add(photos / "away") == IndexReport(
        unchanged=6
    )  # The folder is inside a known one, which is scanned again.


@pytest.mark.parametrize("folder", ["missing", "1.png"])
def test_a_folder_that_never_was_there(index, photos, folder):
    with pytest.raises(UsageError, match=r"(is not there|is not a folder) - give a folder of photos"):
        index.add(photos / folder)
    assert index.ask("roots") == {}


def test_a_folder_whose_name_is_not_utf8_is_one_line(index, tmp_path):
    folder = os.fsencode(tmp_path) + b"/f\xff"
    try:
        os.mkdir(folder)
    except OSError:
        pytest.skip("the file system allows UTF-8 names only")
    with pytest.raises(UsageError, match=r"f\\xff has a name that is not UTF-8"):
        index.add(os.fsdecode(folder))


def test_names_that_are_not_utf8_are_listed(index, photos):
    try:
        with open(os.fsencode(photos) + b"/caf\xe9.png", "wb"):
            pass
    except OSError:
        pytest.skip("the file system allows UTF-8 names only")
    report = index.add(photos)
    assert [(skipped.path, skipped.reason) for skipped in report.skipped] == [
        (f"{photos}/caf\\xe9.png", "the name is not UTF-8 - rename the file")
    ]
    assert list(report.skipped) == index.ask("skipped")


@pytest.mark.parametrize("missing", [True, False])
def test_a_known_folder_that_is_gone_or_empty_removes_nothing(index, photos, tmp_path, missing):
    index.add(photos)
    photos.rename(tmp_path / "away")
    if not missing:
        photos.mkdir()
    for folders in ([photos], []):
        report = index.add(*folders)
        (warning,) = report.warnings
        assert f"{photos}: " in warning
        assert "its 5 photos stay in the index" in warning
        assert report == IndexReport(warnings=(warning,))
    assert len(index.images()) == 5
    if not missing:
        photos.rmdir()
    (tmp_path / "away").rename(photos)
    assert index.add() == IndexReport(unchanged=5)


@pytest.mark.parametrize("batches", [0, 1, 3])
def test_an_interrupted_run_keeps_what_was_encoded_and_goes_on(index, tmp_path, batches):
    photos = tmp_path / "photos"
    for number in range(20):
        paint(photos / f"{number:02d}.png", [("red", (0, 0, 3 * number + 1, 5))])
    index.add(photos, limits=IngestLimits(batch_views=4))
    paint(photos / "00.png", [("blue", (0, 0, 5, 5))])
    (photos / "01.png").unlink()
    for number in range(20, 40):
        paint(photos / f"{number:02d}.png", [("green", (0, 0, 3 * number - 59, 5))])
    encode, calls = index.encode, []

    def stop(pictures):
        calls.append(1)
        if len(calls) > batches:
            raise KeyboardInterrupt
        return encode(pictures)

    index.encode = stop
    with pytest.raises(KeyboardInterrupt):
        index.add(limits=IngestLimits(batch_views=4))
    done = 4 * batches
    assert len(index.images()) == 20 + done  # New photos come first, and an interrupted run removes nothing.
    index.encode = encode
    report = index.add(limits=IngestLimits(batch_views=4))
    assert report == IndexReport(added=20 - done, updated=1, removed=1, unchanged=18 + done)
    assert len(index.read) == index.encoded == 21 - done


def test_a_run_whose_reader_stops_listening_keeps_what_was_encoded(index, photos):
    steps = index.steps(photos, limits=IngestLimits(batch_views=2))
    while next(steps).done < 4:
        pass
    steps.close()
    assert len(index.images()) == 4
    assert index.add(limits=IngestLimits(batch_views=2)) == IndexReport(added=1, unchanged=4)


def test_commits_come_every_so_many_views(index, photos):
    steps = index.steps(photos, limits=IngestLimits(batch_views=2, commit_views=2))
    seen = []
    while not isinstance(step := next(steps), IndexReport):
        seen.append((step.done, index.ask("counts")[0]))
    assert seen == [(0, 0), (1, 0), (2, 2), (3, 2), (4, 4), (5, 4)]
    assert index.ask("counts") == (5, 5)


def test_a_content_that_comes_back_while_small_segments_merge_is_found(tmp_path):
    """a.png changes, its view is nobody's, a merge could drop it; then b.png gets the bytes that a.png had."""
    photos = tmp_path / "photos"
    for number, name in enumerate("abcdefgh", 3):
        paint_red(photos / f"{name}.png", number)
    with fake_engine(
        tmp_path / "index",
        ingest_limits=IngestLimits(batch_views=1, commit_views=1),
        store_limits=StoreLimits(merge_fan_in=2),
    ) as engine:
        engine.add(photos)
        bytes_of_a = (photos / "a.png").read_bytes()
        for number, name in enumerate("acdefg", 30):
            paint_red(photos / f"{name}.png", number)
        (photos / "h.png").write_bytes(bytes_of_a)
        engine.add(photos)
        assert {Path(hit.path).name for hit in engine.search("red", k=100)} == {f"{name}.png" for name in "abcdefgh"}
        assert engine.status().views == engine.status().images == 8


# -- several views of a photo


class Looking(FakeEncoder):
    """Remembers how many pictures came at once."""

    def __init__(self):
        self.steps = []

    def encode_images(self, pictures):
        self.steps.append(len(pictures))
        return super().encode_images(pictures)


SIDE = 160  # These are the tiles of a photo: tiles:4 makes 2 x 2 tiles of 96 pixels, at 0 and 64.
CORNERS = [(left, top) for top in (0, 64) for left in (0, 64)]
SPOTS = {"one": (10, 10, 26, 26), "two": (134, 10, 150, 26), "three": (10, 134, 26, 150), "four": (134, 134, 150, 150)}


@pytest.fixture
def spotted(tmp_path):
    """Four photos with a small red square each, in one tile only."""
    for name, box in SPOTS.items():
        paint(tmp_path / "photos" / f"{name}.png", [("red", box)], size=(SIDE, SIDE))
    return tmp_path / "photos"


@pytest.fixture(params=["fp16", "int8"])
def tiled(tmp_path, spotted, request):
    with fake_engine(tmp_path / "index", "tiles:4", Looking(), request.param) as engine:
        engine.add(spotted)
        yield engine


def stored(engine):
    """Path -> its views' (frame, tokens, checksum) in the order of their ids, as read from disk."""
    catalog = Catalog(engine.folder)
    reader = Snapshot(engine.folder, engine.settings, catalog)
    found = {}
    for path in (f"{root}/{path}" for root, number in catalog.roots().items() for path in catalog.known(number)):
        views = catalog.views_at(path)
        frames, sums = catalog.frames(views), catalog.checksums(views)
        tokens = reader.encoded(np.array(views)).tokens
        found[Path(path).stem] = [(frames[v], tokens[i].tobytes(), sums[v]) for i, v in enumerate(views)]
    catalog.close()
    return found


def damaged(engine):
    return [one for _, _, found in engine.verify() for one in found]


def test_the_whole_and_its_tiles_are_stored(tiled, spotted):
    status = tiled.status()
    assert (status.images, status.views, status.views_policy) == (4, 20, "tiles:4")
    for name, views in stored(tiled).items():
        decoded = decoding.decode((spotted / f"{name}.png").read_bytes(), "tiles:4", SIZE)
        tokens = FakeEncoder().encode_images(decoded).tokens
        assert [view[0] for view in views] == [picture.frame for picture in decoded]
        for (_, found, _), expected in zip(views, tokens, strict=True):
            np.testing.assert_allclose(
                np.frombuffer(found, np.float16), expected.ravel(), atol=0.01
            )  # The codec rounds it.


def test_a_small_square_is_found_in_its_tile(tiled):
    """16 pixels of 160 are not one patch of the whole; of a tile's 96 they are a patch and more."""
    for name, views in stored(tiled).items():
        red = [(np.frombuffer(tokens, np.float16).reshape(-1, DIM)[:, 0] > 0.9).sum() for _, tokens, _ in views]
        corners = [(frame.left, frame.top) for frame, _, _ in views[1:]]
        assert corners == CORNERS
        box = SPOTS[name]
        inside = [
            left <= box[0] and top <= box[1] and box[2] <= left + 96 and box[3] <= top + 96 for left, top in CORNERS
        ]
        assert sum(inside) == 1
        assert red[0] == 0
        assert [count > 0 for count in red[1:]] == inside


def test_steps_of_the_model_are_as_large_as_ever_and_no_photo_is_split(tmp_path, spotted):
    limits = IngestLimits(batch_views=12, commit_views=7)
    for views, steps, segments in (("tiles:4", [10, 10], [10, 10]), ("tiles:9", [10] * 4, [10] * 4)):
        with fake_engine(tmp_path / views, views, Looking(), ingest_limits=limits) as engine:
            engine.add(spotted)
            assert engine.encoder.steps == steps
            assert [count for _, count, _ in engine._catalog.segments()] == segments
    limits = IngestLimits(batch_views=4, commit_views=7)  # A photo has more views than a step of the model takes.
    with fake_engine(tmp_path / "small", "tiles:4", Looking(), ingest_limits=limits) as engine:
        engine.add(spotted)
        assert engine.encoder.steps == [4, 1] * 4
        assert [count for _, count, _ in engine._catalog.segments()] == [10, 10]
        with fake_engine(tmp_path / "tiles:4") as other:
            assert stored(engine) == stored(other)


def test_a_run_cut_off_leaves_no_photo_with_a_part_of_its_views(tmp_path, spotted):
    for stop in range(8):
        with fake_engine(
            tmp_path / f"{stop}", "tiles:4", Looking(), ingest_limits=IngestLimits(batch_views=3)
        ) as engine:
            encode, left = engine.encoder.encode_images, [None] * stop

            def cut(pictures, encode=encode, left=left):
                if not left:
                    raise KeyboardInterrupt
                left.pop()
                return encode(pictures)

            engine.encoder.encode_images = cut
            with pytest.raises(KeyboardInterrupt):
                engine.add(spotted)
            engine.encoder.encode_images = encode
            done = stop // 2  # Each photo takes two steps.
            assert (engine.status().images, engine.status().views) == (done, 5 * done)
            assert engine.add(spotted) == IndexReport(added=4 - done, unchanged=done)
            assert engine.status().views == 20


def test_identical_photos_share_all_views(tiled, spotted):
    shutil.copy(spotted / "one.png", spotted / "twin.png")
    tiled.encoder.steps.clear()
    assert tiled.add() == IndexReport(added=1, unchanged=4)
    assert tiled.encoder.steps == []
    assert (tiled.status().images, tiled.status().views) == (5, 20)
    views = stored(tiled)
    assert views["twin"] == views["one"]


def test_forgotten_photos_take_all_their_views_with_them(tiled, spotted):
    before = stored(tiled)
    assert tiled.forget(spotted / "two.png") == 1
    assert tiled.status().views == 15
    assert list(tiled.compact()) == [(15, 15)]
    ((_, count, _),) = tiled._catalog.segments()
    assert count == 15
    del before["two"]
    assert stored(tiled) == before
    assert damaged(tiled) == []


@pytest.mark.parametrize("kind", ["tokens", "pooled"])
def test_a_damaged_tile_is_made_again_as_it_was(tiled, spotted, kind, monkeypatch):
    """Each view of a photo in turn, and several at once: its own bytes come back, from one decoding."""
    before, decoded, decode_once = stored(tiled), [], decoding.decode
    monkeypatch.setattr(loading, "decode", lambda *given: decoded.append(1) or decode_once(*given))
    file = tiled.folder / "segments" / f"000001.{kind}"
    whole = file.read_bytes()
    stride, names = len(whole) // 20, list(before)
    for rows in ([0], [6], [12], [18], [1, 2, 3, 4, 5, 19]):
        data = bytearray(file.read_bytes())
        for row in rows:
            data[row * stride + 1] ^= 0x10
        file.write_bytes(data)
        found = damaged(tiled)
        assert [one.view for one in found] == [row + 1 for row in rows]
        assert [Path(one.paths[0]).stem for one in found] == [names[row // 5] for row in rows]
        tiled.encoder.steps.clear()
        decoded.clear()
        assert tiled.repair(found) == []
        assert (len(decoded), tiled.encoder.steps) == (len({row // 5 for row in rows}), [len(rows)])
        assert damaged(tiled) == []
        assert stored(tiled) == before  # Equal bytes have equal checksums.
    list(tiled.compact())
    assert stored(tiled) == before
    assert damaged(tiled) == []


def test_a_lost_segment_of_tiles_is_made_again(tiled, spotted):
    before = stored(tiled)
    (tiled.folder / "segments" / "000001.tokens").unlink()
    (spotted / "three.png").unlink()
    with fake_engine(tiled.folder, encoder=Looking(), ingest_limits=IngestLimits(batch_views=3)) as engine:
        left = engine.repair(damaged(engine))
        assert {Path(one.paths[0]).stem for one in left} == {"three"}
        assert len(left) == 5
        assert engine.encoder.steps == [3] * 5
        engine.add()
        assert damaged(engine) == []
        del before["three"]
        assert stored(engine) == before


def test_a_photo_whose_tiles_lie_elsewhere_is_not_repaired_with_them(tiled, spotted):
    """The index says other tiles than those that are made today: another view's bytes would be worse than none."""
    file = tiled.folder / "segments" / "000001.tokens"
    data = bytearray(file.read_bytes())
    for row in (0, 1):
        data[row * len(data) // 20] ^= 1
    file.write_bytes(data)
    settings = replace(tiled.settings, views="tiles:9")
    settings.save(tiled.folder)
    with fake_engine(tiled.folder, encoder=Looking()) as engine:
        left = engine.repair(damaged(engine))
        assert [one.view for one in left] == [2]
        assert engine.encoder.steps == [1]
        assert [one.view for one in damaged(engine)] == [2]


def test_a_photo_that_comes_back_after_half_a_compaction_has_all_its_views(tiled, spotted):
    """Its views lie in two segments; only one of them has gone when the run is cut off."""
    before = stored(tiled)
    file = tiled.folder / "segments" / "000001.tokens"
    data = bytearray(file.read_bytes())
    for row in (1, 6):
        data[row * len(data) // 20] ^= 1
    file.write_bytes(data)
    assert tiled.repair(damaged(tiled)) == []  # They go into a segment of their own.
    (spotted / "one.png").rename(spotted.parent / "away.png")
    tiled.add()
    with fake_engine(tiled.folder, store_limits=StoreLimits(max_segment_views=1)) as engine:
        steps = engine.compact()  # One segment is written after the other.
        next(steps)
        steps.close()
    assert [count for _, count, _ in tiled._catalog.segments()] == [2, 14]
    (spotted.parent / "away.png").rename(spotted / "one.png")
    tiled.encoder.steps.clear()
    assert tiled.add() == IndexReport(added=1, unchanged=3)
    assert tiled.encoder.steps == [5]
    assert stored(tiled) == before
    assert damaged(tiled) == []
