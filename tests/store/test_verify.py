"""Verify finds each damaged view, repair restores only those from the photos; moved folders."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from flairsearch.core.errors import StoreError, UsageError
from flairsearch.core.limits import IngestLimits, StoreLimits
from flairsearch.core.reports import IndexReport
from flairsearch.core.settings import IndexSettings
from flairsearch.store.catalog import Catalog
from flairsearch.store.snapshot import Snapshot
from tests.support.fake import DIM, PATCHES, FakeEncoder, fake_engine, paint_red

COUNT = 9


class Counting(FakeEncoder):
    """An encoder that records the number of red patches of each picture."""

    def __init__(self):
        self.seen = []

    def encode_images(self, pictures):
        made = super().encode_images(pictures)
        self.seen += (made.tokens[..., 0] == 1).sum(1).tolist()
        return made


@pytest.fixture
def photos(tmp_path):
    """Make photos with 1 to 9 red patches; name, view id and image id of a photo are this number."""
    for number in range(1, COUNT + 1):
        paint_red(tmp_path / "photos" / f"{number}.png", number)
    return tmp_path / "photos"


@pytest.fixture(params=["fp16", "int8"])
def engine(tmp_path, photos, request):
    """Make an index of two segments with views 1 to 6 and 7 to 9."""
    with fake_engine(tmp_path / "index", codec=request.param) as engine:
        later = [photos / f"{number}.png" for number in (7, 8, 9)]
        engine.add(photos, ignore=[file.name for file in later])
        engine.add(photos)
    with fake_engine(tmp_path / "index", encoder=Counting()) as engine:
        yield engine


def damaged(engine):
    return [one for _, _, found in engine.verify() for one in found]


def views(found):
    return [one.view for one in found]


def answers(engine):
    hits = engine.search("red", k=100)
    return [(hit.path, hit.score, hit.score_global, hit.regions) for hit in hits]


def segment(engine, number, kind):
    return engine.folder / "segments" / f"{number:06d}.{kind}"


def flip(file, byte, bit=0):
    data = bytearray(file.read_bytes())
    data[byte] ^= 1 << bit
    file.write_bytes(data)


def repair(engine):
    """Repair damaged views; return the encoded pictures and the views that could not be repaired."""
    engine.encoder.seen.clear()
    left = engine.repair(damaged(engine))
    return left, sorted(engine.encoder.seen)


def test_nothing_is_damaged(engine):
    *_, last = steps = list(engine.verify())
    assert all(found == [] for _, _, found in steps)
    assert last[:2] == (COUNT, COUNT)
    assert engine.repair([]) == []


@pytest.mark.parametrize("place", ["first token", "last token", "shift", "scale", "pooled", "last of pooled"])
def test_a_view_with_a_flipped_bit_is_repaired_from_its_photo(engine, photos, place):
    before = answers(engine)
    pooled = "pooled" in place
    file = segment(engine, 1, "pooled" if pooled else "tokens")
    stride = file.stat().st_size // 6
    moments = stride - 4 * PATCHES
    byte = {
        "first token": 0,
        "last token": moments - 1,
        "shift": moments,
        "scale": stride - 1,
        "pooled": 0,
        "last of pooled": 2 * DIM - 1,
    }[place]
    flip(file, 3 * stride + byte, bit=5)
    (found,) = damaged(engine)
    assert (found.view, found.paths) == (4, (str(photos / "4.png"),))
    assert repair(engine) == ([], [4])
    assert damaged(engine) == []
    assert answers(engine) == before
    reader = Snapshot(engine.folder, engine.settings, engine._catalog)
    assert (len(reader), reader.damage) == (COUNT, [])


def test_damage_in_both_segments(engine):
    before = answers(engine)
    for number, row in ((1, 0), (1, 5), (2, 1)):
        file = segment(engine, number, "tokens")
        flip(file, row * (file.stat().st_size // (6 if number == 1 else 3)) + 77)
    flip(segment(engine, 1, "pooled"), 5 * 2 * DIM)  # The same view is damaged twice.
    assert views(damaged(engine)) == [1, 6, 8]
    assert repair(engine) == ([], [1, 6, 8])
    assert answers(engine) == before


@pytest.mark.parametrize("kind", ["tokens", "pooled"])
@pytest.mark.parametrize("damage", ["cut", "longer", "empty", "missing"])
def test_a_missing_segment_damages_all_its_views(engine, damage, kind):
    before = answers(engine)
    file = segment(engine, 1, kind)
    data = file.read_bytes()
    file.unlink()
    if damage != "missing":
        file.write_bytes({"cut": data[:-1], "longer": data + b"\0", "empty": b""}[damage])
    with fake_engine(engine.folder, encoder=Counting()) as other:
        assert [Path(hit[0]).stem for hit in answers(other)] == ["9", "8", "7"]
        assert len(other.search("red").warnings) == 1
        found = damaged(other)
        assert views(found) == [1, 2, 3, 4, 5, 6]
        assert [Path(path).stem for one in found for path in one.paths] == ["1", "2", "3", "4", "5", "6"]
        assert [step[:2] for step in other.verify()] == [(6, 9), (9, 9)]
        assert repair(other) == ([], [1, 2, 3, 4, 5, 6])
        assert answers(other) == before
        assert (other.search("red").warnings, damaged(other)) == ((), [])
        assert list(other.compact()) == [(9, 9)]  # The small segments become one.
        assert list(other.compact()) == []
        assert not file.exists()  # The file is not needed any more.
        assert answers(other) == before


def test_showing_a_damaged_photo_gives_one_line(engine, photos):
    """The result is neither another photo's region nor a traceback."""
    for number, photo in ((1, 5), (2, 9)):
        segment(engine, number, "tokens").unlink()
        with fake_engine(engine.folder) as other:
            with pytest.raises(StoreError, match="is damaged - run flairsearch verify --repair") as error:
                other.show(photos / f"{photo}.png", "red")
            assert f"{photo}.png" in str(error.value)
            assert number == 2 or other.show(photos / "8.png", "red").path.endswith("8.png")


def test_damaged_views_of_missing_or_changed_photos_are_listed(engine, photos, tmp_path):
    shutil.copy(photos / "5.png", tmp_path / "photos" / "5 again.png")
    engine.add()
    segment(engine, 1, "tokens").unlink()
    (photos / "1.png").unlink()
    paint_red(photos / "2.png", 50)
    (photos / "3.png").write_bytes(b"no picture")
    (photos / "4.png").unlink()
    (photos / "4.png").mkdir()
    (photos / "5.png").unlink()  # A duplicate has the same bytes.
    with fake_engine(engine.folder, encoder=Counting()) as other:
        left, seen = repair(other)
        assert views(left) == [1, 2, 3, 4]
        assert [one.paths for one in left] == [(str(photos / f"{number}.png"),) for number in (1, 2, 3, 4)]
        assert seen == [5, 6]
        assert views(damaged(other)) == [1, 2, 3, 4]
        assert [Path(path).stem for path, *_ in answers(other)] == ["9", "8", "7", "6", "5", "5 again"]
        (photos / "4.png").rmdir()
        other.add()  # Missing and changed photos are updated in the index.
        assert views(damaged(other)) == [3]  # This file is no longer a picture, so its index entry stays.
        assert [Path(path).stem for path, *_ in answers(other)][:3] == ["2", "9", "8"]


def test_damage_of_unused_views_is_not_reported(engine, photos):
    (photos / "4.png").unlink()
    engine.add()
    file = segment(engine, 1, "tokens")
    flip(file, 3 * (file.stat().st_size // 6))
    assert damaged(engine) == []


def test_repair_in_a_basis(tmp_path, photos):
    with fake_engine(tmp_path / "index", encoder=Counting()) as engine:
        engine.add(photos)
        list(engine.compact("q4"))
        before = answers(engine)
        ((number, _, _),) = engine._catalog.segments()
        file = segment(engine, number, "tokens")
        for row in (2, 7):
            flip(file, row * (file.stat().st_size // COUNT) + 1, bit=7)
        assert views(damaged(engine)) == [3, 8]
        assert repair(engine) == ([], [3, 8])
        assert damaged(engine) == []
        for (path, score, *_), (path_before, score_before, *_) in zip(answers(engine), before, strict=True):
            assert path == path_before
            assert score == pytest.approx(score_before, abs=1e-6)  # The codes of an unchanged photo are equal.


def test_many_views_in_pieces(tmp_path):
    for number in range(1, 12):
        paint_red(tmp_path / "photos" / f"{number:02d}.png", number)
    with fake_engine(
        tmp_path / "index",
        encoder=Counting(),
        store_limits=StoreLimits(read_views=4),
        ingest_limits=IngestLimits(batch_views=3),
    ) as engine:
        engine.add(tmp_path / "photos")
        file = segment(engine, 1, "tokens")
        bad = [1, 2, 4, 5, 6, 9, 11]
        for view in bad:
            flip(file, (view - 1) * (file.stat().st_size // 11))
        assert [step[:2] for step in engine.verify()] == [(0, 11), (4, 11), (8, 11), (11, 11)]
        assert views(damaged(engine)) == bad
        assert repair(engine) == ([], bad)
        assert damaged(engine) == []


# -- moved folders


def test_a_moved_folder_is_not_encoded_again(engine, photos, tmp_path):
    before = answers(engine)
    engine.encoder.seen.clear()
    photos.rename(tmp_path / "disk")
    engine.move_root(photos, tmp_path / "disk")
    assert engine.status().roots == (str(tmp_path / "disk"),)
    assert [(Path(path).parent.name, score) for path, score, *_ in answers(engine)] == [
        ("disk", score) for _, score, *_ in before
    ]
    assert engine.add() == IndexReport(unchanged=COUNT)
    assert engine.encoder.seen == []
    flip(segment(engine, 1, "tokens"), 0)
    assert repair(engine) == ([], [1])  # The photo is read from its new folder.


def test_moved_folders_may_be_given_in_any_form(engine, photos, tmp_path, monkeypatch):
    other = paint_red(tmp_path / "other" / "20.png", 20).parent
    engine.add(other)
    generation = engine._catalog.generation()
    (tmp_path / "disk" / "here").mkdir(parents=True)
    for old, new, message in (
        (tmp_path / "stranger", tmp_path / "disk", f"{tmp_path / 'stranger'} is no folder of this index"),
        (photos / "sub", tmp_path / "disk", "is no folder of this index"),
        (photos, other, f"{other} is a folder of this index already"),
        (photos, photos, "is a folder of this index already"),
    ):
        with pytest.raises(StoreError, match=message) as error:
            engine.move_root(old, new)
        assert "\n" not in str(error.value)
    assert engine.status().roots == (str(other), str(photos))
    assert engine._catalog.generation() == generation
    monkeypatch.chdir(tmp_path)
    engine.move_root("photos/", "./disk/here/")
    assert engine.status().roots == (str(tmp_path / "disk" / "here"), str(other))
    monkeypatch.setenv("HOME", str(tmp_path))
    engine.move_root(tmp_path / "disk" / "here", "~/photos")
    assert engine.add() == IndexReport(unchanged=COUNT + 1)


def test_a_folder_cannot_move_to_a_missing_folder(engine, photos, tmp_path):
    (tmp_path / "a file").touch()
    for nowhere in ("not mounted", "a file"):
        with pytest.raises(UsageError, match=f"{nowhere} is not there - give the folder") as error:
            engine.move_root(photos, tmp_path / nowhere)
        assert "\n" not in str(error.value)
    assert engine.status().roots == (str(photos),)
    assert engine.add() == IndexReport(unchanged=COUNT)


def test_a_moved_folder_that_is_missing_removes_nothing(engine, photos, tmp_path):
    (tmp_path / "not mounted").mkdir()
    engine.move_root(photos, tmp_path / "not mounted")
    (tmp_path / "not mounted").rmdir()
    report = engine.add()
    assert len(report.warnings) == 1
    assert report.removed == 0
    assert len(answers(engine)) == COUNT
    with pytest.raises(UsageError):
        engine.show(photos / "1.png", "red")


# -- the codec in the settings


def test_the_settings_name_the_codec_of_the_segments(engine):
    catalog = Catalog(engine.folder)
    assert {label for _, _, label in catalog.state().segments} == {IndexSettings.load(engine.folder).codec}
    assert (catalog.last_segment(), [number for number, _, _ in catalog.segments()]) == (2, [1, 2])
    catalog.close()
    np.testing.assert_array_equal(
        Snapshot(engine.folder, engine.settings, engine._catalog).views.id, range(1, COUNT + 1)
    )
