"""Fitted vectors from stored tokens: each view once, whatever interrupts it, and never of bytes that are damaged."""

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


def alike(found: Codes, other: Codes) -> bool:
    """The same views, and codes but for a last bit: products of other sizes round otherwise."""
    return found.keys() == other.keys() and all(
        np.abs(np.subtract(found[view], other[view])).max() <= 1 for view in found
    )


def test_codes_predict_the_scores_of_each_view(index: Path) -> None:
    filled(index, range(30), range(30, 61))
    bank = Counting()
    steps = fit_all(index, bank)
    assert steps == [0, 0, 0, 27, 34, 41, 48, 55, 61]
    assert (bank.views, bank.made) == (61, 2)
    fit = PredictorFile(index, DIM).fit()
    assert fit is not None
    found = codes(index)
    assert list(found) == list(range(1, 62))
    texts = BankEncoder().encode_prompts()
    exact = TextBatchScorer(texts, BankEncoder().pool_weights).score(encoded(range(61)))
    predicted = np.array(list(found.values())) @ np.stack([fit.features(text.vector) for text in texts], 1)
    assert (predicted - exact).std() < 0.25 * exact.std()
    for view in range(61):  # of this view and of no other
        assert np.argmin(np.abs(exact - predicted[view]).mean(1)) == view


def test_codes_predict_what_photos_rank_by(index: Path) -> None:
    """Of a model that ranks by the sum, the sum: text by text, the mean of the conditioned and the global cosine."""
    filled(index, range(61))
    fit_all(index, SumCounting())
    fit = PredictorFile(index, DIM).fit()
    assert fit is not None
    views, texts = encoded(range(61)), SumEncoder().encode_prompts()
    conditioned = np.stack([by_hand.score(views.tokens, text, SumEncoder().pool_weights) for text in texts], 1)
    vectors = np.stack([text.vector for text in texts])
    near = views.pooled.astype(float) @ (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).T
    predicted = np.array(list(codes(index).values())) @ np.stack([fit.features(text.vector) for text in texts], 1)
    exact = (conditioned + near) / 2
    assert (predicted - exact).std() < 0.25 * exact.std()
    assert (predicted - conditioned).std() > conditioned.std()


def test_few_views_have_none(index: Path) -> None:
    bank = Counting()
    assert fit_all(index, bank) == []
    filled(index, range(10))
    assert fit_all(index, bank) == []
    assert not (index / "fitted").exists()
    filled(index, range(10, 11))
    assert fit_all(index, bank)[-1] == 0  # the sample is all there is
    assert len(codes(index)) == bank.views == 11


def test_what_is_done_is_not_done_again(index: Path) -> None:
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


def test_who_has_it_open_is_told(index: Path) -> None:
    """By a new generation, where there is anything new."""
    filled(index, range(30))
    before = generation(index)
    fit_all(index)
    after = generation(index)
    assert after > before
    fit_all(index)
    assert generation(index) == after


def test_an_index_that_shrinks_keeps_what_it_has(index: Path) -> None:
    filled(index, range(20))
    fit_all(index)
    remove(index, list(range(1, 16)))
    assert fit_all(index) == []
    assert len(codes(index)) == 5


@pytest.mark.parametrize("asked", [TEXTS, 25])  # all of the bank, or some of it
def test_cut_off_anywhere_it_goes_on(index: Path, asked: int) -> None:
    policy = replace(SMALL, asked_texts=asked)
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
        assert alike(codes(index), expected)
        assert bank.views <= 60 + 20 + 14  # no more than the sample, or a write, is lost
        assert fit_all(index, policy=policy) == []


def test_cut_off_again_and_again(index: Path) -> None:
    """It comes to an end as long as each run lasts for one write."""
    filled(index, range(60))
    fit_all(index)
    expected = codes(index)
    PredictorFile(index, DIM).remove()
    for _ in range(9):
        with reading(index) as reader:
            list(islice(fit_views(reader, Counting(), SMALL), 4))
    assert alike(codes(index), expected)


def test_a_full_disk_keeps_what_was_done(index: Path) -> None:
    filled(index, range(600))
    fit_all(index)
    expected, size = codes(index), (index / "fitted" / "codes").stat().st_size
    limit = 34_000  # SQLite needs 32 KB
    assert size > limit
    PredictorFile(index, DIM).remove()
    with pytest.raises(OSError), file_limit(limit):  # noqa: PT011
        fit_all(index)
    kept = codes(index)
    assert len(kept) == limit // (size // 600)
    bank = Counting()
    fit_all(index, bank)
    assert alike(codes(index), expected)
    assert bank.views == 600 - len(kept)


@pytest.mark.parametrize("place", range(3))
def test_damaged_codes_are_made_again(index: Path, place: int) -> None:
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
    assert alike(codes(index), expected)
    assert bank.views == 1


def test_without_its_fit_it_begins_anew(index: Path) -> None:
    filled(index, range(30))
    fit_all(index)
    expected = codes(index)
    (index / "fitted" / "map.npz").write_bytes(b"PK")
    assert codes(index) == {}
    fit_all(index)
    assert alike(codes(index), expected)
    shutil.rmtree(index / "fitted")
    (index / "fitted").write_bytes(b"a file")
    assert codes(index) == {}
    fit_all(index)
    assert alike(codes(index), expected)


def test_a_lost_segment_is_left_out_until_it_is_back(index: Path) -> None:
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
    """Bytes of a view's tokens in segment 1, that has them in order. 0xFF: no number."""
    file = index / "segments" / "000001.tokens"
    data = bytearray(file.read_bytes())
    stride = len(data) // 40
    data[(view - 1) * stride : (view - 1) * stride + 64] = bytes([value]) * 64
    file.write_bytes(data)


@pytest.mark.parametrize("value", [0xFF, 0x00, 0x7B])
def test_a_damaged_view_gets_none_until_it_is_repaired(index: Path, value: int) -> None:
    """Its scores would be those of no photo, and stay."""
    filled(index, range(40))
    for view in (1, 2, 3):  # 1 is of the sample: a fit to what is no number is none
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


def test_nothing_is_whole(index: Path) -> None:
    filled(index, range(40))
    for view in range(1, 41):
        damage(index, view)
    fit_all(index)
    assert codes(index) == {}
    assert not (index / "fitted").exists()


def test_scores_that_are_no_numbers_are_of_no_use(index: Path) -> None:
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


# -- a backup put back


def generation(index: Path) -> int:
    with reading(index) as reader:
        return reader.generation


@pytest.mark.parametrize("later", [False, True])
def test_views_never_get_codes_of_a_lost_future(index: Path, later: bool) -> None:
    """Ids are used again. Generations grow by random amounts, so these here may be above those of the lost future."""
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
    fit = PredictorFile(index, DIM).fit()
    assert fit is not None
    texts = BankEncoder().fold(fit.texts[fit.asked])
    exact = TextBatchScorer(texts, BankEncoder().pool_weights).score(encoded(range(100, 110)))
    assert np.abs(fit.codes(exact) - np.array([found[view] for view in range(21, 31)])).max() <= 1
    assert sum(found[view] == lost[view] for view in range(21, 31)) == 0


@pytest.mark.parametrize("turn", range(4))  # generations grow by chance
def test_indexing_after_a_backup_was_put_back(tmp_path: Path, turn: int) -> None:
    """The way of `flairsearch index`: new photos get the ids that the lost ones had."""
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
    assert alike(codes(index), found)
    assert list(found) == list(range(1, 24))
    assert not any(found[view] == lost[view] for view in range(16, 24))


# -- at the end of indexing


def test_indexing_makes_them(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for area in range(1, 21):
        paint_red(photos / f"{area}.png", area)
    with fake_engine(tmp_path / "index", encoder=BankEncoder(), policy=FEW) as engine:
        assert engine.add(photos).added == 20
        assert len(codes(tmp_path / "index")) == 20
        made = sorted(path.name.split(".")[-1] for path in (tmp_path / "index" / "prefilter").iterdir())
        fit = PredictorFile(tmp_path / "index", DIM).fit()
        assert fit is not None
        assert made == sorted(["views", f"{fit.crc:08x}"])
        before = codes(tmp_path / "index")
        assert [done for done, total in engine.refit()][-1] == 0
        assert alike(codes(tmp_path / "index"), before)


def test_a_disk_that_takes_no_codes_is_one_line_and_costs_no_photo(tmp_path: Path) -> None:
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
