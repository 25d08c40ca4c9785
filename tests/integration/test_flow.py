"""Files to hits, with an encoder whose answers are known exactly; and what a kill or a full disk leaves behind."""

import os
import random
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flairsearch.core.errors import StoreError, UsageError
from flairsearch.core.limits import IngestLimits
from flairsearch.core.reports import IndexReport
from flairsearch.store.catalog import Catalog
from flairsearch.store.snapshot import Snapshot
from tests.support import by_hand
from tests.support.fake import GRID, SIZE, FakeEncoder, expected_score, fake_engine, fake_settings, paint, paint_red

ENV = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.fixture
def engine(tmp_path):
    with fake_engine(tmp_path / "index") as engine:
        yield engine


@pytest.fixture
def photos(tmp_path):
    """Photos with 1 to 12 red patches; the name is their number."""
    for number in range(1, 13):
        paint_red(tmp_path / "photos" / f"{number:02d}.png", number)
    return tmp_path / "photos"


def names(hits):
    return [Path(hit.path).name for hit in hits]


# -- what is found


def test_ranking_and_scores_are_those_of_the_formula(engine, photos):
    engine.add(photos)
    hits = engine.search("a red thing", k=12)
    assert names(hits) == [f"{number:02d}.png" for number in range(12, 0, -1)]
    assert [hit.rank for hit in hits] == list(range(1, 13))
    np.testing.assert_allclose([hit.score for hit in hits], [expected_score(n) for n in range(12, 0, -1)], rtol=1e-4)
    assert names(engine.search("red", k=3)) == ["12.png", "11.png", "10.png"]
    assert names(engine.search("red", k=12, min_score=expected_score(4) - 1e-6))[-1] == "04.png"
    assert hits[0].logit == pytest.approx(10 * hits[0].score - 10)


def test_the_global_score_is_the_cosine_of_the_mean_colour(engine, photos):
    engine.add(photos)
    for hit in engine.search("red", k=12):
        share = int(Path(hit.path).stem) / 64
        vector, text = np.asarray([2 * share - 1, -1, -1, 1]), np.asarray([1, -1, -1, 0])
        expected = vector @ text / np.linalg.norm(vector) / np.linalg.norm(text)
        assert hit.score_global == pytest.approx(expected, abs=0.01)


def test_boxes_are_the_painted_ones_in_pixels_of_the_photo(engine, tmp_path):
    folder = tmp_path / "photos"
    paint(folder / "wide.png", [("red", (500, 100, 800, 300)), ("blue", (0, 0, 300, 400))], size=(800, 400))
    paint(folder / "tall.png", [("green", (40, 320, 120, 560))], size=(160, 640))
    engine.add(folder)
    for text, name, box in (
        ("red", "wide.png", (500, 100, 800, 300)),
        ("blue", "wide.png", (0, 0, 300, 400)),
        ("green", "tall.png", (40, 320, 120, 560)),
    ):
        hit = engine.search(text, k=1)[0]
        (region,), patch = hit.regions, (hit.width // GRID, hit.height // GRID)
        assert Path(hit.path).name == name
        assert by_hand.reach(region.box, box) <= max(patch) / 2
        patches = (box[2] - box[0]) * (box[3] - box[1]) / np.prod(patch)
        assert region.score == pytest.approx(expected_score(patches), abs=1e-4)
        assert hit.score == pytest.approx(expected_score(patches), abs=1e-4)
        hottest = np.argwhere(hit.phrases[0].heat > 0.8 * hit.phrases[0].heat.max())[:, ::-1]
        assert (hottest * patch >= box[:2]).all()
        assert ((hottest + 1) * patch <= box[2:]).all()
        assert engine.show(hit.path, text).regions == hit.regions


def test_two_squares_are_two_regions_the_larger_first(engine, tmp_path):
    paint(tmp_path / "photos" / "a.png", [("red", (0, 0, 16, 16)), ("red", (32, 32, 64, 48))])
    engine.add(tmp_path / "photos")
    (hit,) = engine.search("red")
    larger, smaller = hit.regions
    assert by_hand.reach(larger.box, (32, 32, 64, 48)) <= 4
    assert by_hand.reach(smaller.box, (0, 0, 16, 16)) <= 4
    assert (larger.score, smaller.score) == pytest.approx((expected_score(8), expected_score(4)), abs=1e-4)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_boxes_lie_on_the_upright_photo(engine, tmp_path, orientation):
    upright = Image.new("RGB", (128, 64), "black")
    upright.paste("red", (64, 16, 112, 40))
    turn = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    stored = upright.transpose(turn[orientation]) if turn[orientation] is not None else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "photos").mkdir()
    stored.save(tmp_path / "photos" / "a.png", exif=exif)
    engine.add(tmp_path / "photos")
    (hit,) = engine.search("red")
    assert (hit.width, hit.height) == (128, 64)
    (region,) = hit.regions
    assert by_hand.reach(region.box, (64, 16, 112, 40)) <= 8
    assert region.score == pytest.approx(hit.score, abs=1e-5)


def test_the_center_view_sees_the_middle_only(tmp_path):
    paint(tmp_path / "photos" / "a.png", [("red", (0, 0, 32, 64)), ("blue", (96, 16, 120, 40))], size=(192, 64))
    with fake_engine(tmp_path / "index", "center") as engine:
        engine.add(tmp_path / "photos")
        (hit,) = engine.search("blue")
        assert by_hand.reach(hit.regions[0].box, (96, 16, 120, 40)) <= 4
        assert hit.regions[0].score == pytest.approx(hit.score, abs=1e-5)
        assert engine.search("red")[0].score < 1e-6


def test_equal_scores_come_by_image_id(engine, tmp_path):
    for name in ("c", "a", "b"):
        paint_red(tmp_path / name / "x.png", 5, mark=ord(name))
        engine.add(tmp_path / name)
    assert [Path(hit.path).parent.name for hit in engine.search("red")] == ["c", "a", "b"]


def test_identical_files_are_all_hits(engine, photos):
    shutil.copy(photos / "12.png", photos / "copy.png")
    engine.add(photos)
    assert engine.status().images == 13
    assert engine.status().views == 12
    first, second, third = engine.search("red", k=3)
    assert names([first, second, third]) == ["12.png", "copy.png", "11.png"]
    assert (first.score, first.regions) == (second.score, second.regions)


def test_a_shortlist_ranks_the_nearest_only(engine, photos):
    Image.new("RGB", (64, 64), (128, 0, 0)).save(
        photos / "reddish.png"
    )  # The photo is nearly red as a whole, but has no red patch.
    engine.add(photos)
    assert names(engine.search("red", k=20, shortlist=1)) == ["reddish.png"]
    assert names(engine.search("red", k=1, shortlist="all")) == ["12.png"]
    assert names(engine.search("red", k=99, shortlist=99)) == names(engine.search("red", k=99, shortlist="all"))


# -- what changes


def test_answers_follow_the_files(engine, photos):
    engine.add(photos)
    assert names(engine.search("red", k=1)) == ["12.png"]
    paint_red(photos / "03.png", 30)
    (photos / "11.png").unlink()
    (photos / "10.png").rename(photos / "ten.png")
    assert engine.add() == IndexReport(updated=1, moved=1, removed=1, unchanged=9)
    hits = engine.search("red", k=4)
    assert names(hits) == ["03.png", "12.png", "ten.png", "09.png"]
    assert hits[0].score == pytest.approx(expected_score(30), rel=1e-4)
    assert engine.status().images == engine.status().views == 11


def test_forget_takes_a_photo_or_a_folder_out_and_leaves_the_files(engine, photos, tmp_path):
    paint_red(tmp_path / "photos2" / "60.png", 60)
    engine.add([photos, tmp_path / "photos2"])
    assert engine.forget(photos / "12.png") == 1
    assert names(engine.search("red", k=2)) == ["60.png", "11.png"]
    assert engine.forget(photos) == 11
    assert engine.status().roots == (str(tmp_path / "photos2"),)
    assert names(engine.search("red")) == ["60.png"]
    assert len(list(photos.iterdir())) == 12
    with pytest.raises(UsageError, match="is not in the index"):
        engine.forget(photos)


def test_an_empty_index_has_no_hits(engine, photos):
    assert engine.search("red").hits == ()
    engine.add(photos)
    engine.forget(photos)
    assert engine.search("red").hits == ()


def test_an_open_engine_sees_what_another_one_wrote(engine, photos, tmp_path):
    engine.add(photos)
    assert names(engine.search("red", k=1)) == ["12.png"]
    paint_red(photos / "40.png", 40)
    with fake_engine(tmp_path / "index") as other:
        other.add()
    assert names(engine.search("red", k=1)) == ["40.png"]


def test_skipped_files_are_listed_with_reasons(engine, photos):
    (photos / "empty.jpg").write_bytes(b"")
    (photos / "text.jpg").write_text("hello")
    (photos / "broken.jpg").symlink_to("nowhere")
    report = engine.add(photos)
    reasons = {Path(skipped.path).name: skipped.reason for skipped in report.skipped}
    assert reasons == {
        "empty.jpg": "the file is empty",
        "text.jpg": "not a picture in a known format",
        "broken.jpg": "broken symbolic link",
    }
    assert report.added == 12
    assert engine.status().skipped == report.skipped


def test_an_index_moves_and_is_read_without_rights_to_write(open_folder, photos, tmp_path, as_user):
    with fake_engine(open_folder / "index") as engine:
        engine.add(photos)
        expected = engine.search("red", k=12)
    index = (open_folder / "index").rename(open_folder / "moved")
    for path in [index, *index.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    with as_user(), fake_engine(index) as engine:
        hits = engine.search("red", k=12)
        with pytest.raises(StoreError, match="cannot be written"):
            engine.forget(photos)
    assert [(hit.path, hit.score, hit.regions) for hit in hits] == [(h.path, h.score, h.regions) for h in expected]


# -- what goes wrong


def verify(index, photos):
    """The index opens, and every row has its bytes: those that the encoder gives for the file."""
    catalog = Catalog(index)
    reader = Snapshot(index, fake_settings(), catalog)
    views = reader.views.id
    checksums = catalog.checksums(views.tolist())
    assert not reader.damaged(views, np.asarray([checksums[view] for view in views.tolist()], np.int64)).any()
    for root, number in catalog.roots().items():
        for path in catalog.known(number):
            (view,) = catalog.views_at(f"{root}/{path}")
            patches = int(Path(path).stem)
            tokens = reader.encoded(np.asarray([view])).tokens[0]
            assert (tokens[:, 0] == 1).sum() == patches
    images = catalog.counts()[0]
    catalog.close()
    return images


INDEXING = """
    import sys
    import time
    from tests.support.fake import FakeEncoder, fake_engine
    from flairsearch.core.limits import IngestLimits

    class Slow(FakeEncoder):
        def encode_images(self, pictures):
            time.sleep(0.004)
            return super().encode_images(pictures)

    with fake_engine(sys.argv[1], encoder=Slow(), ingest_limits=IngestLimits(batch_views=2, commit_views=4)) as engine:
        sys.stdout.write("open\\n")
        sys.stdout.flush()
        for step in engine.adding(sys.argv[2]):
            pass
"""


def start(index, photos, code=INDEXING, **options):
    command = [sys.executable, "-c", textwrap.dedent(code), str(index), str(photos)]
    return subprocess.Popen(command, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def committed(index):
    catalog = Catalog(index)
    images = catalog.counts()[0]
    catalog.close()
    return images


@pytest.mark.slow
def test_a_kill_at_any_moment_loses_nothing_that_was_committed(tmp_path):
    photos, index = tmp_path / "photos", tmp_path / "index"
    for number in range(1, 65):
        paint_red(photos / f"{number:02d}.png", number)
    rng, seen = random.Random(7), 0
    with fake_engine(index):
        pass
    for _ in range(8):
        process = start(index, photos)
        assert process.stdout.readline() == "open\n"
        time.sleep(rng.uniform(0.0, 0.25))
        before = committed(index)
        process.kill()
        process.communicate()
        images = verify(index, photos)
        assert images >= max(before, seen)
        seen = images
        if seen == 64:  # The run had ended, so the next one begins from the start.
            shutil.rmtree(index)
            seen = 0
            with fake_engine(index):
                pass
    with fake_engine(index) as engine:
        report = engine.add(photos)
        assert (report.added, report.unchanged) == (64 - seen, seen)
        assert not list((index / "segments").glob("*.part"))
        assert [Path(hit.path).stem for hit in engine.search("red", k=64)] == [f"{n:02d}" for n in range(64, 0, -1)]
    assert verify(index, photos) == 64


FULL = """
    import resource
    import sys
    from tests.support.fake import fake_engine
    from flairsearch.core.errors import StoreError
    from flairsearch.core.limits import IngestLimits

    with fake_engine(sys.argv[1], ingest_limits=IngestLimits(batch_views=4, commit_views=8)) as engine:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
        try:
            engine.add(sys.argv[2])
        except StoreError as error:
            sys.stdout.write(f"{error}\\n")
"""


@pytest.mark.parametrize("limit", [0, 3_000, 6_000, 30_000, 70_000])
def test_a_full_disk_is_one_line_and_the_index_still_opens(tmp_path, photos, limit):
    index = tmp_path / "index"
    with fake_engine(index) as engine:
        engine.add(paint_red(tmp_path / "first" / "40.png", 40).parent)
    command = [sys.executable, "-c", textwrap.dedent(FULL), str(index), str(photos), str(limit)]
    ended = subprocess.run(command, env=ENV, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert len(ended.stdout.splitlines()) == 1
    assert "cannot be" in ended.stdout
    kept = verify(index, photos)
    assert 1 <= kept < 13
    with fake_engine(index) as engine:
        assert names(engine.search("red", k=1)) == ["40.png"]
        report = engine.add(photos)
        assert (report.added, report.unchanged) == (13 - kept, kept - 1)
        assert names(engine.search("red", k=2)) == ["40.png", "12.png"]
    assert verify(index, photos) == 13


def test_ctrl_c_keeps_what_was_encoded(tmp_path, photos):

    class Impatient(FakeEncoder):
        batches = 0

        def encode_images(self, pictures):
            self.batches += 1
            if self.batches == 3:
                raise KeyboardInterrupt
            return super().encode_images(pictures)

    with (
        fake_engine(tmp_path / "index", encoder=Impatient(), ingest_limits=IngestLimits(batch_views=3)) as engine,
        pytest.raises(KeyboardInterrupt),
    ):
        engine.add(photos)
    assert verify(tmp_path / "index", photos) == 6
    with fake_engine(tmp_path / "index") as engine:
        assert names(engine.search("red", k=1)) == ["06.png"]
        assert engine.add(photos) == IndexReport(added=6, unchanged=6)
        assert names(engine.search("red", k=1)) == ["12.png"]


def test_a_second_writer_is_one_line_and_readers_go_on(tmp_path, photos):
    with fake_engine(tmp_path / "index") as first, fake_engine(tmp_path / "index") as second:
        steps = first.adding(photos)
        next(steps)
        with pytest.raises(StoreError, match="is being written by another process"):
            second.add(photos)
        assert second.search("red").hits == ()
        for _ in steps:
            pass
        assert names(second.search("red", k=1)) == ["12.png"]


def test_a_lost_segment_is_left_out_and_told_in_one_line(engine, photos, tmp_path):
    engine.add(photos)
    engine.add(paint_red(tmp_path / "more" / "40.png", 40).parent)
    file = engine.folder / "segments" / "000001.tokens"
    file.unlink()
    result = engine.search("red")
    assert names(result) == ["40.png"]
    assert result.warnings == (f"{file} is missing - run flairsearch verify --repair",)
    assert not result.complete


def test_pictures_are_made_of_whole_patches():
    """What the tests above rest on: a grid of 8 patches of 8 pixels."""
    assert SIZE == fake_settings().image_size == 8 * 8
