"""Codes from stored tokens: each view is encoded once despite interruptions, and never from damaged bytes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flairsearch.core.errors import StoreError
from flairsearch.core.types import EncodedViews
from flairsearch.rerank.many_texts import TextBatchScorer
from flairsearch.search.policy import SearchPolicy
from flairsearch.shortlist.build import drop_lost, fit_views
from flairsearch.shortlist.predictor_file import PredictorFile
from flairsearch.store.writer import Writer
from tests.support import by_hand
from tests.support.bank_encoder import TEXTS, BankEncoder, SumEncoder
from tests.support.fake import DIM, fake_engine, paint_red
from tests.support.fits import SMALL, Codes, Counting, SumCounting, codes, fit_all
from tests.support.full_disk import file_limit
from tests.support.indexes import SETTINGS, encoded, filled, reading, remove, saved

pytestmark = pytest.mark.usefixtures("one_thread")
FEW = SearchPolicy(exhaustive_views=10)


def nearly_equal(found: Codes, other: Codes) -> bool:
    """Whether views are equal, and codes equal up to one step: products of other sizes round differently."""
    return found.keys() == other.keys() and all(
        np.abs(np.subtract(found[view], other[view])).max() <= 1 for view in found
    )


def test_codes_predict_the_scores_of_each_view(index: Path) -> None:
    filled(index, range(30), range(30, 61))
    bank = Counting()
    steps = fit_all(index, bank)
    assert steps == [0, 0, 0, 27, 34, 41, 48, 55, 61]
    assert (bank.views, bank.made) == (61, 2)
    fit = PredictorFile(index, DIM).load()
    assert fit is not None
    found = codes(index)
    assert list(found) == list(range(1, 62))
    texts = BankEncoder().encode_prompts()
    exact = TextBatchScorer(texts, BankEncoder().pool_weights).score(encoded(range(61)))
    predicted = np.array(list(found.values())) @ np.stack([fit.features(text.vector) for text in texts], 1)
    assert (predicted - exact).std() < 0.25 * exact.std()
    for view in range(61):  # The scores are those of this view.
        assert np.argmin(np.abs(exact - predicted[view]).mean(1)) == view


def test_codes_predict_the_ranking_score(index: Path) -> None:
    """With a global share of one half, codes predict the mean of the conditioned and the global cosine."""
    filled(index, range(61))
    fit_all(index, SumCounting())
    fit = PredictorFile(index, DIM).load()
    assert fit is not None
    views, texts = encoded(range(61)), SumEncoder().encode_prompts()
    conditioned = np.stack([by_hand.score(views.tokens, text, SumEncoder().pool_weights) for text in texts], 1)
    vectors = np.stack([text.vector for text in texts])
    near = views.pooled.astype(float) @ (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).T
    predicted = np.array(list(codes(index).values())) @ np.stack([fit.features(text.vector) for text in texts], 1)
    exact = (conditioned + near) / 2
    assert (predicted - exact).std() < 0.25 * exact.std()
    assert (predicted - conditioned).std() > conditioned.std()


def test_few_views_get_no_codes(index: Path) -> None:
    bank = Counting()
    assert fit_all(index, bank) == []
    filled(index, range(10))
    assert fit_all(index, bank) == []
    assert not (index / "fitted").exists()
    filled(index, range(10, 11))
    assert fit_all(index, bank)[-1] == 0  # The sample contains all views.
    assert len(codes(index)) == bank.views == 11


def test_views_are_encoded_once(index: Path) -> None:
    filled(index, range(50))
    bank = Counting()
    fit_all(index, bank)
    before = codes(index), (index / "fitted" / "map.npz").read_bytes()
    assert fit_all(index, bank) == []
    assert (bank.views, bank.made) == (50, 2)
    filled(index, range(50, 53))
    assert fit_all(index, bank) == [53]
    assert (bank.views, bank.made) == (53, 3)
    found = codes(index)
    assert {view: found[view] for view in before[0]} == before[0]
    assert (index / "fitted" / "map.npz").read_bytes() == before[1]
    remove(index, [1, 2, 51])
    assert fit_all(index, bank) == []
    assert codes(index) == {view: found[view] for view in found if view not in (1, 2, 51)}
    writer = Writer(index, SETTINGS)
    list(writer.compactor.compact(writer.target, dead_too=True))
    writer.close()
    assert fit_all(index, bank) == []
    assert codes(index) == {view: found[view] for view in found if view not in (1, 2, 51)}
    assert bank.views == 53


def test_open_readers_see_a_new_generation(index: Path) -> None:
    """The generation changes only if codes were added."""
    filled(index, range(30))
    before = generation(index)
    fit_all(index)
    after = generation(index)
    assert after > before
    fit_all(index)
    assert generation(index) == after


def test_an_index_that_shrinks_keeps_its_codes(index: Path) -> None:
    filled(index, range(20))
    fit_all(index)
    remove(index, list(range(1, 16)))
    assert fit_all(index) == []
    assert len(codes(index)) == 5


@pytest.mark.parametrize("anchors", [TEXTS, 25])  # Anchors are all texts of the bank, or some.
def test_an_interrupted_run_is_continued(index: Path, anchors: int) -> None:
    policy = replace(SMALL, anchor_texts=anchors)
    filled(index, range(60))
    fit_all(index, policy=policy)
    expected = codes(index)
    for yields in (1, 2, 3, 4, 5, 6, 8, 9):
        PredictorFile(index, DIM).remove()
        bank = Counting()
        with reading(index) as reader, bank.counting():
            work = fit_views(reader, bank, policy)
            assert len(list(islice(work, yields))) == yields
            work.close()  # type: ignore[attr-defined]
        fit_all(index, bank, policy)
        assert nearly_equal(codes(index), expected)
        assert bank.views <= 60 + 20 + 14  # At most the sample or one write is lost.
        assert fit_all(index, policy=policy) == []


def test_repeated_interruptions(index: Path) -> None:
    """The work is completed if each run lasts for at least one write."""
    filled(index, range(60))
    fit_all(index)
    expected = codes(index)
    PredictorFile(index, DIM).remove()
    for _ in range(9):
        with reading(index) as reader:
            list(islice(fit_views(reader, Counting(), SMALL), 4))
    assert nearly_equal(codes(index), expected)


def test_a_full_disk_keeps_written_codes(index: Path) -> None:
    filled(index, range(600))
    fit_all(index)
    expected, size = codes(index), (index / "fitted" / "codes").stat().st_size
    limit = 34_000  # SQLite needs 32 kB.
    assert size > limit
    PredictorFile(index, DIM).remove()
    with pytest.raises(OSError), file_limit(limit):  # noqa: PT011
        fit_all(index)
    kept = codes(index)
    assert len(kept) == limit // (size // 600)
    bank = Counting()
    fit_all(index, bank)
    assert nearly_equal(codes(index), expected)
    assert bank.views == 600 - len(kept)


@pytest.mark.parametrize("place", range(3))
def test_damaged_codes_are_replaced(index: Path, place: int) -> None:
    filled(index, range(30))
    fit_all(index)
    expected = codes(index)
    file = index / "fitted" / "codes"
    data, size = bytearray(file.read_bytes()), file.stat().st_size // 30
    data[(0, 15, 29)[place] * size + 20] ^= 64
    file.write_bytes(data)
    assert len(codes(index)) == 29
    bank = Counting()
    fit_all(index, bank)
    assert nearly_equal(codes(index), expected)
    assert bank.views == 1


def test_without_a_predictor_all_codes_are_replaced(index: Path) -> None:
    filled(index, range(30))
    fit_all(index)
    expected = codes(index)
    (index / "fitted" / "map.npz").write_bytes(b"PK")
    assert codes(index) == {}
    fit_all(index)
    assert nearly_equal(codes(index), expected)
    shutil.rmtree(index / "fitted")
    (index / "fitted").write_bytes(b"a file")
    assert codes(index) == {}
    fit_all(index)
    assert nearly_equal(codes(index), expected)


def test_views_of_a_missing_segment_get_codes_when_it_is_back(index: Path) -> None:
    filled(index, range(20), range(20, 40))
    file = index / "segments" / "000001.tokens"
    file.rename(index / "away")
    fit_all(index)
    assert list(codes(index)) == list(range(21, 41))
    (index / "away").rename(file)
    bank = Counting()
    fit_all(index, bank)
    assert list(codes(index)) == list(range(1, 41))
    assert bank.views == 20
    (index / "segments" / "000002.pooled").unlink()
    assert fit_all(index, bank) == []
    for path in (index / "segments").glob("*.pooled"):
        path.unlink()
    assert fit_all(index, bank) == []


# -- damaged rows


def damage(index: Path, view: int, value: int = 0xFF) -> None:
    """Overwrite bytes of a view's tokens in segment 1, which has the views in order; 0xFF gives NaN."""
    file = index / "segments" / "000001.tokens"
    data = bytearray(file.read_bytes())
    stride = len(data) // 40
    data[(view - 1) * stride : (view - 1) * stride + 64] = bytes([value]) * 64
    file.write_bytes(data)


@pytest.mark.parametrize("value", [0xFF, 0x00, 0x7B])
def test_a_damaged_view_gets_no_code_until_it_is_repaired(index: Path, value: int) -> None:
    """A code from damaged tokens would be wrong and never be replaced."""
    filled(index, range(40))
    for view in (1, 2, 3):  # View 1 is in the sample, which must not contain NaN.
        damage(index, view, value)
    assert fit_all(index)[-1] == 40
    found = codes(index)
    assert list(found) == list(range(4, 41))
    bank = Counting()
    assert fit_all(index, bank) == [40]
    assert codes(index) == found
    writer = Writer(index, SETTINGS)
    writer.replace_views([1, 2, 3], encoded(range(3)))
    writer.close()
    fit_all(index, bank)
    repaired = codes(index)
    assert bank.views == 3
    assert list(repaired) == list(range(1, 41))
    fit_all(index, bank)
    assert bank.views == 3


def test_all_views_are_damaged(index: Path) -> None:
    filled(index, range(40))
    for view in range(1, 41):
        damage(index, view)
    fit_all(index)
    assert codes(index) == {}
    assert not (index / "fitted").exists()


def test_views_with_nan_scores_get_no_codes(index: Path) -> None:
    filled(index, range(40))

    score = TextBatchScorer.score

    def broken(scorer: TextBatchScorer, encoded: EncodedViews) -> Any:
        scores = score(scorer, encoded)
        scores[0, 3] = np.nan
        scores[-1, 5] = np.inf
        return scores

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TextBatchScorer, "score", broken)
        fit_all(index)
    assert 20 <= len(codes(index)) < 40
    fit_all(index)
    assert list(codes(index)) == list(range(1, 41))


# -- restored backups


def generation(index: Path) -> int:
    with reading(index) as reader:
        return reader.generation


@pytest.mark.parametrize("later", [False, True])
def test_views_never_get_codes_newer_than_a_restored_backup(index: Path, later: bool) -> None:
    """View ids are reused. Generations grow by random amounts, so new ones may be above the lost ones."""
    filled(index, range(20))
    fit_all(index)
    before, put_back = codes(index), saved(index)
    filled(index, range(20, 30))
    fit_all(index)
    lost, last = codes(index), generation(index)
    for _ in range(50):
        put_back()
        assert codes(index) == before
        writer = Writer(index, SETTINGS)
        drop_lost(writer.snapshot())
        writer.close()
        filled(index, range(100, 110))
        if (generation(index) > last) == later:
            break
    else:
        pytest.skip("by chance no generation was so")
    assert codes(index) == before
    bank = Counting()
    fit_all(index, bank)
    assert bank.views == 10
    found = codes(index)
    assert list(found) == list(range(1, 31))
    fit = PredictorFile(index, DIM).load()
    assert fit is not None
    texts = BankEncoder().fold(fit.texts[fit.anchors])
    exact = TextBatchScorer(texts, BankEncoder().pool_weights).score(encoded(range(100, 110)))
    assert np.abs(fit.codes(exact) - np.array([found[view] for view in range(21, 31)])).max() <= 1
    assert sum(found[view] == lost[view] for view in range(21, 31)) == 0


@pytest.mark.parametrize("turn", range(4))  # Generations grow by random amounts.
def test_indexing_after_restoring_a_backup(tmp_path: Path, turn: int) -> None:
    """`flairsearch index` gives new photos the ids of the lost ones."""
    photos, index = tmp_path / "photos", tmp_path / "index"
    for area in range(1, 16):
        paint_red(photos / f"{area}.png", area)
    with fake_engine(index, encoder=BankEncoder(), policy=FEW) as engine:
        engine.add(photos)
    put_back = saved(index)
    for area in range(16, 24):
        paint_red(photos / f"{area}.png", area)
    with fake_engine(index, encoder=BankEncoder(), policy=FEW) as engine:
        engine.add()
    lost = codes(index)
    assert list(lost) == list(range(1, 24))
    put_back()
    for area in range(16, 24):
        paint_red(photos / f"{area}.png", area + 40)
    with fake_engine(index, encoder=BankEncoder(), policy=FEW) as engine:
        engine.add()
    found = codes(index)
    (index / "fitted" / "codes").unlink()
    fit_all(index)
    assert nearly_equal(codes(index), found)
    assert list(found) == list(range(1, 24))
    assert not any(found[view] == lost[view] for view in range(16, 24))


# -- at the end of indexing


def test_indexing_makes_codes(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for area in range(1, 21):
        paint_red(photos / f"{area}.png", area)
    with fake_engine(tmp_path / "index", encoder=BankEncoder(), policy=FEW) as engine:
        assert engine.add(photos).added == 20
        assert len(codes(tmp_path / "index")) == 20
        made = sorted(path.name.split(".")[-1] for path in (tmp_path / "index" / "prefilter").iterdir())
        fit = PredictorFile(tmp_path / "index", DIM).load()
        assert fit is not None
        assert made == sorted(["views", f"{fit.crc:08x}"])
        before = codes(tmp_path / "index")
        assert [done for done, total in engine.refit()][-1] == 0
        assert nearly_equal(codes(tmp_path / "index"), before)


def test_a_disk_too_full_for_codes_gives_one_warning_and_loses_no_photo(tmp_path: Path) -> None:
    for area in range(1, 21):
        paint_red(tmp_path / "photos" / f"{area}.png", area)
    with fake_engine(tmp_path / "index", encoder=BankEncoder(), policy=FEW) as engine:
        engine.add(tmp_path / "photos")
        (tmp_path / "index" / "fitted" / "codes").unlink()
        (tmp_path / "index" / "fitted" / "codes").mkdir()
        paint_red(tmp_path / "photos" / "30.png", 30)
        with pytest.raises(StoreError, match=r"cannot be written .*what was committed is kept"):
            engine.add()
        assert engine.status().images == 21
        assert engine.search("red", k=1)[0].path.endswith("30.png")
        (tmp_path / "index" / "fitted" / "codes").rmdir()
        engine.add()
    assert list(codes(tmp_path / "index")) == list(range(1, 22))
