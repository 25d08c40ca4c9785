"""The facade: what it refuses, and what it sees of others."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import flairsearch
from flairsearch.core.errors import FlairSearchError, PictureError, StoreError, UsageError, WeightsError
from flairsearch.core.hits import Hit
from flairsearch.core.query import ImageExample, Query
from flairsearch.core.reports import IndexReport, Progress
from flairsearch.engine import Engine
from flairsearch.model import checkpoints, encoder
from flairsearch.model.flair import ModelConfig, load_model
from flairsearch.rebuild import IndexOptions, rebuild
from tests.support.fake import FakeEncoder, expected_score, fake_engine, paint, paint_red
from tests.support.random_flair import CONV, SMALL, SUM, random_flair, random_pictures, save_flair


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAIRSEARCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for area in (3, 30):
        paint_red(tmp_path / "photos" / f"{area}.png", area)
    return tmp_path / "photos"


def model_file(folder: Path, seed: int) -> Path:
    return save_flair(random_flair(seed=seed), folder / f"model{seed}.safetensors")


def test_real_model_from_folder_to_hits(tmp_path: Path, photos: Path) -> None:
    with Engine.open(tmp_path / "index", model=model_file(tmp_path, 0), device="cpu") as engine:
        assert engine.add(str(photos)) == IndexReport(added=2)
        assert engine.add([photos]) == IndexReport(unchanged=2)
        hits = engine.search("a red ball", k=10)
        assert {hit.path for hit in hits} == {str(photos / "3.png"), str(photos / "30.png")}
        assert all(isinstance(hit, Hit) and -1 <= hit.score <= 1 and hit.regions for hit in hits)
        model = flairsearch.load_model("model0")
        local = model.encode_image(_pictures(model, [hit.path for hit in hits]))[1]
        expected = model.scores(local, model.encode_text(model.tokenize(["a red ball"])))[:, 0]
    assert [hit.score for hit in hits] == pytest.approx(expected.tolist(), abs=1e-2)
    assert hits[0].score >= hits[1].score
    with Engine.open(tmp_path / "index", device="cpu", create=False) as engine:  # The index knows its model.
        assert engine.search("a red ball", k=10)[0].path == hits[0].path


@pytest.mark.parametrize("config", [CONV, SUM, SMALL, replace(SMALL, score="sum")], ids=["conv", "conv sum", "", "sum"])
@pytest.mark.parametrize("codec", ["fp16", "int8", "q1"])
def test_photos_rank_as_the_models_own_scores_say(
    tmp_path: Path, config: ModelConfig, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pair after the other: FLAIR's score, or the mean of it and of CLIP's, where the configuration says sum."""
    monkeypatch.setattr(encoder, "choose_precision", lambda device: torch.float32)
    size = config.image_size
    for number, pixels in enumerate(random_pictures(12, size, seed=3)):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    path = save_flair(random_flair(config), tmp_path / "model.safetensors")
    model, tolerance = load_model(path), {"fp16": 2e-3, "int8": 4e-3, "q1": 4e-2}[codec]
    with Engine.open(tmp_path / "index", model=path, device="cpu", codec=codec) as engine:
        engine.add(tmp_path / "photos")
        hits = {text: engine.search(text, k=12) for text in ("a red ball", "two dogs", "snow")}
        shown = engine.show(tmp_path / "photos" / "3.png", "snow")
    for text, found in hits.items():
        pictures, tokens = _pictures(model, [hit.path for hit in found]), model.tokenize([text])
        with torch.inference_mode():
            logits, clip = model.get_logits(pictures, tokens)[0], model.get_logits_as_clip(pictures, tokens)[0]
        scale, bias = model.towers.logit_scale.exp(), model.towers.logit_bias
        conditioned, near = (logits[:, 0] - bias) / scale, clip[:, 0] / scale
        expected = ((conditioned + near) / 2 if config.score == "sum" else conditioned).tolist()
        assert [hit.score for hit in found] == pytest.approx(expected, abs=tolerance)
        assert [hit.score_global for hit in found] == pytest.approx(near.tolist(), abs=2e-3)
        assert (conditioned - near).abs().max() > 5 * tolerance or codec == "q1"
        for i, j in combinations(range(12), 2):
            assert expected[i] > expected[j] - 2 * tolerance
    assert shown.score == pytest.approx(next(hit.score for hit in hits["snow"] if hit.path == shown.path), abs=1e-6)


def test_the_score_is_the_configurations(tmp_path: Path) -> None:
    """The same weights with another score rank the same photos otherwise."""
    for number, pixels in enumerate(random_pictures(30, SMALL.image_size, seed=3)):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    found = {}
    for score in ("flair", "sum"):
        path = save_flair(random_flair(replace(SMALL, score=score)), tmp_path / f"{score}.safetensors")
        with Engine.open(tmp_path / score, model=path, device="cpu", codec="fp16") as engine:
            engine.add(tmp_path / "photos")
            found[score] = engine.search("a red ball", k=30)
    assert [hit.path for hit in found["flair"]] != [hit.path for hit in found["sum"]]
    alone = {hit.path: hit for hit in found["flair"]}
    for hit in found["sum"]:
        other = alone[hit.path]
        assert hit.score == pytest.approx((other.score + other.score_global) / 2, abs=1e-5)
        assert hit.regions == other.regions  # The place does not depend on the model.


def _pictures(model: flairsearch.FLAIR, paths: list[str]):  # type: ignore[no-untyped-def]
    return torch.stack(
        [model.preprocess(Image.open(path)) for path in paths]
    )  # Square photos are not cropped, so squash agrees.


def test_other_weights_are_refused(tmp_path: Path) -> None:
    first, second = model_file(tmp_path, 0), model_file(tmp_path, 1)
    Engine.open(tmp_path / "index", model=first).close()
    with pytest.raises(StoreError) as caught:
        Engine.open(tmp_path / "index", model=second)
    for path in (first, second):
        assert checkpoints.describe(path)[1][:12] in str(caught.value)
    assert "--rebuild" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_changed_weights_under_the_same_name_are_refused(tmp_path: Path) -> None:
    Engine.open(tmp_path / "index", model=model_file(tmp_path, 0)).close()
    checkpoints.import_file(model_file(tmp_path, 1), "model0")
    with Engine.open(tmp_path / "index") as engine:
        assert engine.status().images == 0  # Everything that needs no model works.
        with pytest.raises(StoreError, match="--rebuild"):
            engine.search("red")


def test_a_model_that_is_not_here_is_named_not_downloaded(tmp_path: Path) -> None:
    Engine.open(tmp_path / "index", model=model_file(tmp_path, 0)).close()
    file = tmp_path / "index" / "index.json"
    file.write_text(file.read_text().replace('"model0"', '"flair-merged30m"'))
    with Engine.open(tmp_path / "index") as engine:
        assert engine.status().model == "flair-merged30m"
        with pytest.raises(WeightsError, match="models pull flair-merged30m"):
            engine.search("red")


def test_an_index_of_a_retired_model(tmp_path: Path, photos: Path) -> None:
    """Named where it is needed, in one line; and an index made anew has the default, or the one that is named."""
    with Engine.open(tmp_path / "index", model=model_file(tmp_path, 0), device="cpu") as engine:
        engine.add(photos)
    file = tmp_path / "index" / "index.json"
    file.write_text(file.read_text().replace('"model0"', '"flair-tiny"'))
    with Engine.open(tmp_path / "index", device="cpu") as engine:
        assert (engine.status().model, engine.status().images) == ("flair-tiny", 2)
        for ask in (engine.search, lambda text: engine.show(photos / "3.png", text), engine.unseen_words):
            with pytest.raises(WeightsError, match=r"flair-tiny is no longer .* - .*flairsearch index --rebuild$"):
                ask("red")
    with pytest.raises(WeightsError, match=r"--rebuild$"):
        Engine.open(tmp_path / "index", model="flair-tiny")
    list(rebuild(tmp_path / "index", [], IndexOptions(model_file(tmp_path, 1)), "cpu"))
    assert Engine.open(tmp_path / "index").settings.model == "model1"
    file.write_text(file.read_text().replace('"model1"', '"flair-tiny"'))
    checkpoints.import_file(
        model_file(tmp_path, 1), "flair-merged30m"
    )  # The default is the best model on this machine.
    *_, report = rebuild(tmp_path / "index", [], device="cpu")
    assert report == IndexReport(added=2)
    with Engine.open(tmp_path / "index", device="cpu") as engine:
        assert engine.status().model == "flair-merged30m"
        assert len(engine.search("red")) == 2


def test_an_index_of_a_retired_model_that_somebody_kept(tmp_path: Path, photos: Path) -> None:
    checkpoints.import_file(model_file(tmp_path, 0), "flair-tiny")
    with Engine.open(tmp_path / "index", model="flair-tiny", device="cpu") as engine:
        engine.add(photos)
    with Engine.open(tmp_path / "index", device="cpu") as engine:
        assert len(engine.search("red")) == 2
    list(rebuild(tmp_path / "index", [], device="cpu"))
    assert Engine.open(tmp_path / "index").settings.model == "flair-tiny"


def test_rebuild_names_a_known_folder_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with Engine.open(tmp_path / "index", model=model_file(tmp_path, 0)) as engine:
        engine.add(tmp_path / "photos")
    (tmp_path / "photos").rmdir()
    with pytest.raises(UsageError, match="forget"):
        list(rebuild(tmp_path / "index", []))


def test_other_views_are_refused(tmp_path: Path) -> None:
    model = model_file(tmp_path, 0)
    Engine.open(tmp_path / "index", model=model, views="center").close()
    assert Engine.open(tmp_path / "index").settings.views == "center"
    with pytest.raises(StoreError, match="--rebuild"):
        Engine.open(tmp_path / "index", views="squash")
    with pytest.raises(UsageError):
        Engine.open(tmp_path / "other", model=model, views="round")
    assert not (tmp_path / "other").exists()


def test_no_index_is_made_where_none_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="flairsearch index"):
        Engine.open(tmp_path / "index", create=False)
    with pytest.raises(WeightsError):
        Engine.open(tmp_path / "index", model="flair-huge")
    assert not (tmp_path / "index").exists()


def test_folder_where_none_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for create in (True, False):
        with pytest.raises(StoreError) as caught:
            Engine.open(tmp_path / "file" / "index", create=create)
        assert len(str(caught.value).splitlines()) == 1


def test_search_sees_what_another_engine_added(tmp_path: Path, photos: Path) -> None:
    reader, writer = fake_engine(tmp_path / "index"), fake_engine(tmp_path / "index")
    assert reader.search("red").hits == ()
    writer.add(photos)
    assert [Path(hit.path).stem for hit in reader.search("red")] == ["30", "3"]
    paint_red(photos / "64.png", 64)
    writer.add()
    assert [Path(hit.path).stem for hit in reader.search("red")] == ["64", "30", "3"]
    writer.forget(photos / "30.png")
    assert [Path(hit.path).stem for hit in reader.search("red")] == ["64", "3"]


def test_forget(tmp_path: Path, photos: Path) -> None:
    engine = fake_engine(tmp_path / "index")
    engine.add(photos)
    assert engine.forget(photos / "3.png") == 1
    assert (photos / "3.png").exists()
    assert engine.forget(photos) == 1
    assert engine.search("red").hits == ()
    with pytest.raises(UsageError):
        engine.forget(photos)


@pytest.mark.parametrize("text", ["", "  \n", "red \udcff"])
def test_empty_and_broken_texts(tmp_path: Path, photos: Path, text: str) -> None:
    engine = fake_engine(tmp_path / "index")
    engine.add(photos)
    with pytest.raises(UsageError):
        engine.search(text)
    with pytest.raises(UsageError):
        engine.show(photos / "3.png", text)


def test_show_of_a_stranger(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(UsageError, match="not in the index"):
        fake_engine(tmp_path / "index").show(photos / "3.png", "red")


def test_images_that_no_id_or_path_can_name(tmp_path: Path, photos: Path) -> None:
    engine = fake_engine(tmp_path / "index")
    engine.add(photos)
    (hit,) = engine.search("red", 1)
    image: Any = np.int64(hit.image)
    assert (engine.path_of(image), engine.show(image, "red").path) == (hit.path, hit.path)
    assert engine.path_of(10**30) is None
    with pytest.raises(UsageError, match=r"no image 1000000000000000000000000000000 in the index"):
        engine.show(10**30, "red")
    stranger: Any
    for stranger in (None, 2.5, True, b"x"):
        for ask in (engine.path_of, lambda stranger: engine.show(stranger, "red")):
            with pytest.raises(UsageError, match=r"^image: .* is no whole number"):
                ask(stranger)


def test_one_text_is_no_list_of_queries(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^queries: a text is no list of queries"):
        fake_engine(tmp_path / "index").search_many("red")


def test_status_counts(tmp_path: Path, photos: Path) -> None:
    (photos / "broken.jpg").write_bytes(b"no picture")
    engine = fake_engine(tmp_path / "index")
    engine.add(photos)
    status = engine.status()
    assert (status.images, status.views, status.roots) == (2, 2, (str(photos),))
    assert [Path(skipped.path).name for skipped in status.skipped] == ["broken.jpg"]
    assert status.bytes == sum(file.stat().st_size for file in (tmp_path / "index").rglob("*") if file.is_file())


@pytest.mark.parametrize("damage", ["missing", "garbage"])
def test_rebuild_of_an_index_whose_catalogue_is_lost(tmp_path: Path, photos: Path, damage: str) -> None:
    model = model_file(tmp_path, 0)
    with Engine.open(tmp_path / "index", model=model, device="cpu") as engine:
        engine.add(photos)
    for file in (tmp_path / "index").glob("catalog.sqlite*"):
        file.unlink()
    if damage == "garbage":
        (tmp_path / "index" / "catalog.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match=r"index --rebuild FOLDER"):
        list(rebuild(tmp_path / "index", [], device="cpu"))
    *_, report = rebuild(tmp_path / "index", [photos], device="cpu")
    assert isinstance(report, IndexReport)
    assert report.added == len(list(photos.iterdir()))
    assert "other folders of the old index are not known any more" in report.warnings[-1]


def test_rebuild_for_another_model(tmp_path: Path, photos: Path) -> None:
    first, second = model_file(tmp_path, 0), model_file(tmp_path, 1)
    with Engine.open(tmp_path / "index", model=first, device="cpu") as engine:
        engine.add(photos)
    *progress, report = rebuild(tmp_path / "index", [], IndexOptions(second), "cpu")
    assert report == IndexReport(added=2)
    assert all(isinstance(step, Progress) for step in progress)
    assert Engine.open(tmp_path / "index").settings.model == "model1"
    assert sorted(path.name for path in tmp_path.iterdir() if "index" in path.name) == ["index"]
    with pytest.raises(UsageError):
        list(rebuild(tmp_path / "nothing", []))


def test_errors_have_one_base() -> None:
    assert {error.__base__ for error in (StoreError, UsageError, WeightsError)} == {FlairSearchError}


def test_public_names_do_not_load_torch_before_use() -> None:
    code = (
        "import sys; from flairsearch import Engine, Filter, FlairSearchError, Hit, ImageExample, IndexReport\n"
        "from flairsearch import Query, Region, SearchResult\n"
        "assert not {'torch', 'open_clip', 'faiss'} & set(sys.modules), sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError):
        flairsearch.nothing  # noqa: B018


# -- by the image's id, and pictures that come as bytes


def test_an_image_by_its_id(tmp_path: Path, photos: Path) -> None:
    shutil.copy(photos / "3.png", photos / "twin.png")
    with fake_engine(tmp_path / "index") as engine:
        engine.add(photos)
        hits = engine.search("red")
        assert len({hit.image for hit in hits}) == len(hits) == 3
        for hit in hits:
            assert engine.path_of(hit.image) == hit.path
            shown, same = engine.show(hit.image, "red"), engine.show(hit.path, "red")
            assert (shown.path, shown.image, shown.rank) == (hit.path, hit.image, 1)
            assert shown.to_dict() == same.to_dict()
            assert (shown.score, shown.regions) == (pytest.approx(hit.score), hit.regions)
            np.testing.assert_array_equal(shown.phrases[0].heat, same.phrases[0].heat)
        gone = hits[0].image
        engine.forget(hits[0].path)
        for image in (gone, 0, -1, 10**6, 2**63 - 1):
            assert engine.path_of(image) is None
            with pytest.raises(UsageError, match=f"no image {image} in the index"):
                engine.show(image, "red")
        assert engine.path_of(hits[1].image) == hits[1].path  # Ids stay.
        paint_red(photos / "new.png", 12)
        engine.add()
        (new,) = [hit.image for hit in engine.search("red") if hit.path.endswith("new.png")]
        assert new not in [hit.image for hit in hits]  # No id is given again.


def test_conditions_do_not_matter_where_one_image_is_shown(tmp_path: Path, photos: Path) -> None:
    with fake_engine(tmp_path / "index") as engine:
        engine.add(photos)
        query = Query("red", exclude="red", position="right", min_area="90%")
        assert engine.search(query).hits == ()
        for hit in engine.search("red"):
            assert engine.show(hit.image, query).regions == engine.show(hit.image, "red").regions


def test_a_picture_as_bytes_is_as_its_file(tmp_path: Path, photos: Path) -> None:
    two = paint(tmp_path / "two.png", [("red", (0, 0, 32, 64)), ("blue", (32, 0, 64, 64))])
    with fake_engine(tmp_path / "index") as engine:
        engine.add(photos)
        for box in (None, (0, 0, 32, 64), (32, 0, 64, 64)):
            (by_path,) = engine.search_many([Query(image=ImageExample(two, box))])
            (by_bytes,) = engine.search_many([Query(image=ImageExample(two.read_bytes(), box))])
            assert [(hit.image, hit.score) for hit in by_bytes] == [(hit.image, hit.score) for hit in by_path]
            assert {hit.phrases[0].text for hit in by_bytes} == {"picture"}
        for wrong in (b"", b"no picture", two.read_bytes()[:60]):
            with pytest.raises(PictureError) as caught:
                engine.search(Query("red", image=ImageExample(wrong)))
            assert len(str(caught.value).splitlines()) == 1
            assert str(wrong)[:20] not in str(caught.value)
        with pytest.raises(UsageError):
            engine.search(Query(image=ImageExample(two.read_bytes(), (0, 0, 65, 64))))


# -- what another process writes while one photo is shown


def forget(writer: Engine, photo: Path) -> None:
    writer.forget(photo)


def forget_and_compact(writer: Engine, photo: Path) -> None:
    writer.forget(photo)
    list(writer.compact())


def forget_another_and_compact(writer: Engine, photo: Path) -> None:
    writer.forget(photo.with_name("3.png"))
    list(writer.compact())


def index_it_anew(writer: Engine, photo: Path) -> None:
    paint_red(photo, 12)
    writer.add()


@pytest.mark.parametrize("moment", ["text", "before", "after"])
@pytest.mark.parametrize(
    ("write", "patches"),
    [(forget, None), (forget_and_compact, None), (forget_another_and_compact, 9), (index_it_anew, 12)],
)
def test_a_photo_is_shown_while_others_write(
    tmp_path: Path,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    write: Callable[[Engine, Path], None],
    patches: int | None,
) -> None:
    """While the text is encoded, just before its views are looked up, and just after. `patches`: what it shows then."""
    photo = paint_red(photos / "9.png", 9)  # This is the last photo.
    meanwhile: list[Callable[[Engine, Path], None]] = []

    class Slow(FakeEncoder):
        def encode_texts(self, texts):  # type: ignore[no-untyped-def]
            happen("text")
            return super().encode_texts(texts)

    def happen(now: str) -> None:
        if now == moment and meanwhile:
            meanwhile.pop()(writer, photo)

    with fake_engine(tmp_path / "index") as writer, fake_engine(tmp_path / "index", encoder=Slow()) as engine:
        writer.add(photos)
        assert engine.show(photo, "red").path == str(photo)  # A state is open already.
        views_at = engine._catalog.views_at

        def slow(path: str) -> list[int]:
            happen("before")
            views = views_at(path)
            happen("after")
            return views

        monkeypatch.setattr(engine._catalog, "views_at", slow)
        meanwhile.append(write)
        if patches is None:
            with pytest.raises(UsageError, match=f"^{photo} is not in the index - run flairsearch index"):
                engine.show(photo, "red")
        else:
            hit = engine.show(photo, "red")
            assert hit.path == str(photo)
            assert hit.score == pytest.approx(expected_score(patches), abs=1e-3)
        assert not meanwhile


# -- what a first query in a new process takes

FIRST = """
import json, sys
from pathlib import Path
from flairsearch.engine import Engine
from flairsearch.core.query import Query
folder = Path(sys.argv[1])
def files(): return {str(path): path.stat().st_mtime_ns for path in (folder / "prefilter").iterdir()}
before = files()
with Engine.open_for_one_search(folder) as engine:
    hits = engine.search("a red ball", 3)
    many = engine.search(Query(["red", "a dog"], exclude="blue", position="left"), 3)
new = sorted(path for path, changed in files().items() if before.get(path) != changed)
heavy = {"torch", "open_clip", "faiss", "numba", "PIL", "huggingface_hub", "ftfy"}
print(json.dumps([[hit.path for hit in hits], sorted(heavy & set(sys.modules)), new]))
"""


def first_query(index: Path) -> tuple[list[str], list[str], list[str]]:
    """Paths of the hits, heavy libraries that were loaded, files that were made."""
    command = [sys.executable, "-c", FIRST, str(index)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    paths, loaded, made = json.loads(done.stdout)
    return paths, loaded, made


def test_a_first_query_needs_only_what_add_prepared(tmp_path: Path) -> None:
    for number, colour in enumerate(("red", "blue", "green", "white", "black", "cyan") * 4):
        paint(tmp_path / "photos" / f"{number}.png", [(colour, (number, 8, number + 30, 50))], dpi=(80 + number, 80))
    with Engine.open(tmp_path / "index", checkpoints.BUNDLED, device="cpu") as engine:
        engine.add(tmp_path / "photos")
        expected = [hit.path for hit in engine.search("a red ball", 3)]
    assert first_query(tmp_path / "index") == (expected, [], [])
    assert first_query(tmp_path / "index") == (expected, [], [])
    with Engine.open(tmp_path / "index", device="cpu") as engine:
        engine.add()  # Nothing is new.
    assert first_query(tmp_path / "index") == (expected, [], [])
    shutil.rmtree(tmp_path / "index" / "prefilter")
    with Engine.open(tmp_path / "index", device="cpu") as engine:
        engine.add()  # Nothing is new, but the derived files are gone.
    assert first_query(tmp_path / "index") == (expected, [], [])
    (tmp_path / "photos" / "0.png").unlink()
    with Engine.open(tmp_path / "index", device="cpu") as engine:
        engine.add()
    paths, loaded, made = first_query(tmp_path / "index")
    assert (len(paths), loaded, made) == (3, [], [])
    with Engine.open(tmp_path / "index", device="cpu") as engine:
        engine.forget(paths[0])
    again, loaded, made = first_query(tmp_path / "index")  # It writes the derived files that need no model.
    assert loaded == []
    assert made
    assert len(again) == 3
    assert again[:2] == paths[1:]
    assert first_query(tmp_path / "index") == (again, [], [])
    with Engine.open(tmp_path / "index", device="cpu") as engine:
        engine.forget(tmp_path / "photos")
    assert first_query(tmp_path / "index")[0] == []


def test_names_that_are_no_text(tmp_path: Path, photos: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    odd.mkdir()
    with fake_engine(tmp_path / "index") as engine:
        engine.add(photos)
        with pytest.raises(UsageError, match="is not in the index"):
            engine.show(odd / "3.png", "red")
        with pytest.raises(UsageError, match="is no UTF-8"):
            engine.move_root(photos, odd)


def test_a_further_page_warns_of_nothing(tmp_path: Path) -> None:
    """Without conditions no photo is left out of any page."""
    for patches in range(1, 9):
        paint_red(tmp_path / "photos" / f"{patches}.png", patches)
    with fake_engine(tmp_path / "index") as engine:
        engine.add(tmp_path / "photos")
        for offset in (0, 2, 7, 9):
            result = engine.search("red", 2, offset=offset)
            assert (result.warnings, result.stats.images_not_judged, result.complete) == ((), 0, True)
