"""The shortlist against brute force over codes and pooled vectors, from rows and from its derived file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flairsearch.indexing.lifecycle import create_index
from flairsearch.shortlist import shortlist
from flairsearch.shortlist.build import drop_lost
from flairsearch.shortlist.predictor_file import PredictorFile
from flairsearch.shortlist.score_predictor import ScorePredictor
from flairsearch.shortlist.shortlist import Shortlist, make_derived_files
from flairsearch.store.derived_files import checksum_matches, drop_damaged, drop_leftovers
from flairsearch.store.snapshot import Snapshot
from flairsearch.store.writer import Writer
from tests.support.fake import DIM
from tests.support.fits import Counting, a_fit, codes, fit_all
from tests.support.indexes import SETTINGS, encoded, filled, open_shortlist, reading, remove, saved

pytestmark = pytest.mark.usefixtures("one_thread")
N, WIDTH = 60, 70  # Codes are wider than the scan's prefixes.
PREDICTOR = a_fit(0, WIDTH, DIM)
TEXTS = np.random.default_rng(5).normal(size=(6, DIM)).astype(np.float32) * 3


def random_codes(count: int = N, seed: int = 0) -> Any:
    """Draw codes i8[n, W]; every view shares its code with one or two others."""
    few = np.random.default_rng(seed).integers(-127, 128, (-(-count // 3), WIDTH)).astype(np.int8)
    return np.tile(few, (3, 1))[:count]


def put(index: Path, views: Any, found: Any, fit: ScorePredictor = PREDICTOR) -> None:
    """Write codes for views into a new folder."""
    fitted = PredictorFile(index, DIM)
    fitted.save(fit)
    with reading(index) as reader:
        fitted.append(fit, np.asarray(views, np.int64), found, reader.generation)


@pytest.fixture
def full(index: Path) -> Path:
    """Make an index of N views, all with codes; the rows are in another order than the ids."""
    filled(index, range(40), range(40, N))
    order = np.random.default_rng(1).permutation(N)
    put(index, order + 1, random_codes()[order])
    return index


def best(ids: Any, scores: Any, count: int) -> list[int]:
    return ids[np.lexsort((ids, -scores))][:count].tolist()  # type: ignore[no-any-return]


def by_codes(ids: Any, found: Any, text: Any, count: int, fit: ScorePredictor = PREDICTOR) -> list[int]:
    """Return views in descending order of their codes' inner products; ties by id."""
    scores = found.astype(np.float64) @ fit.features(text).astype(np.float64)
    return best(ids, np.round(scores / np.abs(scores).max(initial=1e-9), 6), count)


def by_global(views: Any, text: Any, count: int) -> list[int]:
    pooled = encoded([view - 1 for view in views]).pooled.astype(np.float64)
    return best(np.asarray(views), np.round(pooled @ text / np.linalg.norm(text), 5), count)


def files(index: Path) -> list[str]:
    """Return the kinds of the derived files."""
    return sorted(path.name.split(".", 1)[1] for path in (index / "prefilter").iterdir())


def check(index: Path, found: Any, views: Any = None, fit: ScorePredictor = PREDICTOR) -> None:
    """Check all results of a newly opened shortlist; `found`: the codes i8[n, W] of the views that have some."""
    ids = np.arange(1, len(found) + 1) if views is None else np.asarray(views)
    with reading(index) as reader:
        near = open_shortlist(reader)
        assert near.predicts
        for text in TEXTS:
            for count in (1, 2, 7, len(found), len(found) + 9):
                answer = near.search(text, count)
                assert answer.views.tolist() == by_codes(ids, found, text, count, fit)
                exact = found[np.searchsorted(ids, answer.views)].astype(np.float64) @ fit.features(text)
                np.testing.assert_allclose(answer.scores, exact, atol=1e-3)


def test_equals_brute_force(full: Path) -> None:
    """There are many ties, broken by view id; rows and derived file give the same results."""
    for _ in range(3):
        check(full, random_codes())
        assert files(full) == sorted([f"{PREDICTOR.crc:08x}", "views"])


def test_the_length_of_a_text_does_not_matter(full: Path) -> None:
    with reading(full) as reader:
        near = Shortlist(reader)
        for text in TEXTS:
            one, other = near.search(text, 20), near.search(text * 50, 20)
            np.testing.assert_allclose(one.scores, other.scores, rtol=1e-4, atol=1e-4)
        assert len(near.search(np.zeros(DIM, np.float32), 20).views) == 20
        assert len(near.search(TEXTS[0], 0).views) == 0


def test_several_texts_rank_by_the_mean_prediction(full: Path, subtests: pytest.Subtests) -> None:
    for weights in ([1, 1], [3, 1, 1], [1, 5, 2, 2, 9, 1], [1]):
        with subtests.test(weights=weights):
            check_mean(full, weights)


def check_mean(full: Path, weights: list[int]) -> None:
    shares = np.array(weights, np.float32) / sum(weights)
    several, codes_ = TEXTS[: len(weights)], random_codes().astype(np.float64)
    each = np.stack([codes_ @ PREDICTOR.features(text) for text in several], 1)
    mean, ids = each @ shares, np.arange(1, N + 1)
    among = np.flatnonzero(np.random.default_rng(3).random(N) < 0.4) + 1
    with reading(full) as reader:
        near = Shortlist(reader)
        for count in (1, 7, N, N + 9):
            for some in (None, among):
                answer = near.search(several, count, some, shares)
                there = ids if some is None else some
                expected = np.sort(mean[there - 1])[::-1][:count]
                assert len(set(answer.views.tolist())) == len(answer.views) == min(count, len(there))
                np.testing.assert_allclose(answer.scores, expected, atol=1e-3)
                np.testing.assert_allclose(answer.scores, mean[answer.views - 1], atol=1e-3)
        alike, alone = near.search(np.stack([TEXTS[0]] * 3), 20), near.search(TEXTS[0], 20)
        np.testing.assert_allclose(alike.scores, alone.scores, atol=1e-3)


def test_several_texts_rank_by_the_mean_global_cosine(index: Path) -> None:
    filled(index, range(N))
    shares = np.array([0.7, 0.1, 0.2], np.float32)
    units = TEXTS[:3] / np.linalg.norm(TEXTS[:3], axis=1, keepdims=True)
    mean = encoded(range(N)).pooled.astype(np.float64) @ units.T @ shares
    with reading(index) as reader:
        answer = Shortlist(reader).search(units * np.array([[5], [1], [0.1]], np.float32), 9, None, shares)
    assert answer.views.tolist() == best(np.arange(1, N + 1), np.round(mean, 5), 9)


def test_without_a_predictor_views_rank_by_the_global_token(index: Path) -> None:
    filled(index, range(N))
    with reading(index) as reader:
        near = Shortlist(reader)
        assert not near.predicts
        for text in TEXTS:
            for count in (1, 9, N, 99):
                assert near.search(text, count).views.tolist() == by_global(range(1, N + 1), text, count)


@pytest.mark.parametrize("damage", ["no file", "empty", "part of a row", "of another fit", "a folder"])
def test_without_codes_views_rank_by_the_global_token(index: Path, damage: str) -> None:
    """This is the state after a kill between writing the predictor and the codes."""
    filled(index, range(N))
    put(index, range(1, N + 1), random_codes(), a_fit(9, WIDTH, DIM))
    file = index / "fitted" / "codes"
    if damage == "of another fit":
        PREDICTOR.save(index / "fitted" / "map.npz")
    elif damage in ("empty", "part of a row"):
        file.write_bytes(file.read_bytes()[: 0 if damage == "empty" else 30])
    else:
        file.unlink()
        if damage == "a folder":
            file.mkdir()
    for _ in range(2):
        with reading(index) as reader:
            near = Shortlist(reader)
            assert not near.predicts
            for text in TEXTS:
                answer = near.search(text, 9)
                assert answer.views.tolist() == by_global(range(1, N + 1), text, 9)
                assert np.isfinite(answer.scores).all()


def test_views_without_codes_come_first(index: Path, subtests: pytest.Subtests) -> None:
    """They are ranked by global cosine and take at most half of the list, if the other views can fill the rest."""
    filled(index, range(N))
    for covered in (1, 5, 30, 55, 59):
        with subtests.test(covered=covered):
            check_half(index, covered)


def check_half(index: Path, covered: int) -> None:
    known = np.sort(np.random.default_rng(covered).permutation(N)[:covered] + 1)
    rest = np.setdiff1d(np.arange(1, N + 1), known)
    put(index, known, random_codes()[known - 1])
    with reading(index) as reader:
        near = open_shortlist(reader)
        assert near.predicts
        for text in TEXTS:
            for count in (1, 2, 3, 10, 25, N, N + 5):
                first = min(max(count // 2, count - covered), len(rest))
                answer = near.search(text, count)
                assert len(answer.views) == min(count, N) == len(set(answer.views.tolist()))
                assert answer.views[:first].tolist() == by_global(rest, text, first)
                assert np.isposinf(answer.scores[:first]).all()
                assert np.isfinite(answer.scores[first:]).all()
                expected = by_codes(known, random_codes()[known - 1], text, min(count, N) - first)
                assert answer.views[first:].tolist() == expected
    assert files(index) == ["views"]  # An incomplete scan is not saved.


def test_the_search_is_restricted_to_given_views(index: Path, subtests: pytest.Subtests) -> None:
    """Given views without codes take half of the list, which is full if there are enough given views."""
    filled(index, range(N))
    for covered, share in product((0, 1, 30, N), (0.0, 0.1, 0.6, 1.0)):
        with subtests.test(covered=covered, share=share):
            check_restricted(index, covered, share)


def check_restricted(index: Path, covered: int, share: float) -> None:
    rng = np.random.default_rng(covered)
    known = np.sort(rng.permutation(N)[:covered] + 1)
    put(index, known, random_codes()[known - 1])
    among = np.flatnonzero(rng.random(N) < share) + 1
    with_codes, rest = np.intersect1d(known, among), np.setdiff1d(among, known)
    with reading(index) as reader:
        near = Shortlist(reader)
        for text in TEXTS:
            for count in (1, 2, 9, N):
                answer = near.search(text, count, among).views.tolist()
                first = min(max(count // 2, count - len(with_codes)), len(rest)) if covered else min(count, len(rest))
                assert answer[:first] == (by_global(rest, text, first) if first else [])
                expected = by_codes(with_codes, random_codes()[with_codes - 1], text, min(count, len(among)) - first)
                assert answer[first:] == expected


def test_codes_of_removed_views(full: Path) -> None:
    remove(full, [1, 7, 60])
    views = np.setdiff1d(np.arange(1, N + 1), [1, 7, 60])
    for _ in range(2):
        check(full, random_codes()[views - 1], views)


@pytest.mark.parametrize("lost", ["000001.tokens", "000002.pooled"])
def test_a_missing_segment(full: Path, lost: str) -> None:
    check(full, random_codes())
    (full / "segments" / lost).unlink()
    views = np.arange(1, N + 1)[40:] if lost[5] == "1" else np.arange(1, 41)
    for _ in range(2):
        check(full, random_codes()[views - 1], views)
    PredictorFile(full, DIM).save(a_fit(4, WIDTH, DIM))
    with reading(full) as reader:
        near = Shortlist(reader)
        assert near.search(TEXTS[0], 9).views.tolist() == by_global(views, TEXTS[0], 9)


def test_an_empty_index(index: Path) -> None:
    for _ in range(2):
        with reading(index) as reader:
            assert len(Shortlist(reader).search(TEXTS[0], 5).views) == 0
        put(index, range(1, 9), random_codes(8))


# -- the derived file


def kept(index: Path, fit: ScorePredictor = PREDICTOR) -> list[Path]:
    return list((index / "prefilter").glob(f"*.{fit.crc:08x}"))


def test_the_file_is_written_once_and_loaded_by_the_next_shortlist(full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(full, random_codes())
    (file,) = kept(full)
    before = file.stat().st_mtime_ns
    monkeypatch.setattr(shortlist, "last_places", None)
    check(full, random_codes())
    assert [path.stat().st_mtime_ns for path in kept(full)] == [before]


@pytest.mark.parametrize(
    "damage", ["cut", "empty", "longer", "a flipped bit", "deleted", "a folder", "of other views", "of other rows"]
)
def test_a_damaged_file_is_rewritten(full: Path, tmp_path: Path, damage: str) -> None:
    check(full, random_codes())
    (file,) = kept(full)
    data = file.read_bytes()
    if damage in ("deleted", "a folder"):
        file.unlink()
        if damage == "a folder":
            file.mkdir()
    elif damage == "of other views":
        create_index(tmp_path / "other", SETTINGS)
        filled(tmp_path / "other", range(N - 1))
        put(tmp_path / "other", range(1, N), random_codes()[: N - 1])
        with reading(tmp_path / "other") as reader:
            make_derived_files(reader)
        file.write_bytes(kept(tmp_path / "other")[0].read_bytes())
    elif damage == "of other rows":
        put(full, range(1, N + 1), random_codes())
        (full / "fitted" / "codes").write_bytes((full / "fitted" / "codes").read_bytes()[:-9])
    else:
        flipped = data[:200] + bytes([data[200] ^ 4]) + data[201:]
        file.write_bytes({"cut": data[:-1], "empty": b"", "longer": data + b"\0", "a flipped bit": flipped}[damage])
    if damage == "of other rows":
        with reading(full) as reader:
            assert np.isposinf(open_shortlist(reader).search(TEXTS[0], 9).scores).sum() == 1
        return
    for _ in range(2):
        check(full, random_codes())
    if damage != "a folder":
        assert kept(full) == [file]
        assert file.read_bytes() == data


def test_another_predictor_has_another_file(full: Path) -> None:
    check(full, random_codes())
    other = a_fit(3, WIDTH, DIM)
    put(full, range(1, N + 1), random_codes(seed=4), other)
    check(full, random_codes(seed=4), fit=other)
    assert len(kept(full, other)) == 1


def test_files_of_older_generations_are_removed(full: Path) -> None:
    check(full, random_codes())
    (old,) = kept(full)
    for image in (3, 4):
        remove(full, [image])
        with reading(full) as reader:
            make_derived_files(reader)
        (new,) = kept(full)
        assert new != old
        assert checksum_matches(new)
        old = new


def test_verify_and_the_next_writer_check_the_file(full: Path) -> None:
    put_back = saved(full)
    check(full, random_codes())
    (file,) = kept(full)
    assert drop_damaged(full / "prefilter") == []
    data = file.read_bytes()
    file.write_bytes(data[:99] + bytes([data[99] ^ 1]) + data[100:])
    assert drop_damaged(full / "prefilter") == [file]
    remove(full, [5])
    with reading(full) as reader:
        make_derived_files(reader)
        drop_leftovers(full / "prefilter", reader.generation)
        (later,) = kept(full)
        drop_leftovers(full / "prefilter", reader.generation - 1)
        assert not later.exists()
    put_back()
    check(full, random_codes())


def test_an_unwritable_index_can_be_searched(
    open_folder: Path, as_user: Callable[[], AbstractContextManager[None]]
) -> None:
    index = open_folder / "index"
    create_index(index, SETTINGS)
    filled(index, range(N))
    put(index, range(1, N + 1), random_codes())
    shutil.rmtree(index / "prefilter", ignore_errors=True)
    for path in [index, *index.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    with as_user():
        check(index, random_codes())
    assert not (index / "prefilter").exists()


# -- rows that change while the file stays


@pytest.mark.parametrize("left", [0, 1, 13, 59])
def test_rows_rewritten_in_another_order(index: Path, left: int) -> None:
    """Predictor and generation are unchanged, but the derived file is out of date and must not be used."""
    filled(index, range(N))
    fit_all(index)
    fit, expected = PredictorFile(index, DIM).load(), codes(index)
    assert fit is not None
    check(index, np.array(list(expected.values()), np.int8), fit=fit)
    file = index / "fitted" / "codes"
    file.write_bytes(file.read_bytes()[: left * file.stat().st_size // N])
    with reading(index) as reader:
        assert Shortlist(reader).predicts == (left > 0)
    fit_all(index)
    check(index, np.array([codes(index)[view] for view in range(1, N + 1)], np.int8), fit=fit)


def test_a_damaged_row_is_replaced_although_the_file_refers_to_it(index: Path) -> None:
    filled(index, range(N))
    fit_all(index)
    fit, expected = PredictorFile(index, DIM).load(), np.array([*codes(index).values()], np.int8)
    assert fit is not None
    check(index, expected, fit=fit)
    file = index / "fitted" / "codes"
    data = bytearray(file.read_bytes())
    data[7 * len(data) // N + 20] ^= 0x55
    file.write_bytes(data)
    bank = Counting()
    fit_all(index, bank)
    assert bank.views == 1
    check(index, np.array([*codes(index).values()], np.int8), fit=fit)


def test_removing_the_newest_views_moves_no_other_rows(index: Path) -> None:
    """The newest photo is forgotten: its codes are removed, and other rows keep their positions."""
    filled(index, range(N))
    fit_all(index)
    fit, expected = PredictorFile(index, DIM).load(), codes(index)
    assert fit is not None
    remove(index, [N])
    del expected[N]
    for _ in range(2):
        check(index, np.array(list(expected.values()), np.int8), fit=fit)
        writer = Writer(index, SETTINGS)
        drop_lost(writer.snapshot())
        writer.close()


def test_an_open_shortlist_does_not_change(full: Path) -> None:
    """Codes stay mapped, because the writer only appends to files or replaces them."""
    with reading(full) as reader:
        near = Shortlist(reader)
        before = [near.search(text, 20) for text in TEXTS]
        for change in (
            lambda: put(full, [3, 5], random_codes(2, seed=8)),
            lambda: PredictorFile(full, DIM).drop_after(4, 10**18),
            lambda: PredictorFile(full, DIM).remove(),
        ):
            change()
            for text, expected in zip(TEXTS, before, strict=True):
                answer = near.search(text, 20)
                assert answer.views.tolist() == expected.views.tolist()
                np.testing.assert_array_equal(answer.scores, expected.scores)


def test_an_older_snapshot_sees_no_newer_rows(full: Path) -> None:
    with reading(full) as old:
        filled(full, range(N, N + 4))
        with reading(full) as new:
            PredictorFile(full, DIM).append(PREDICTOR, np.arange(3, 9), random_codes(6, seed=8), new.generation)
        assert isinstance(old, Snapshot)
        near = Shortlist(old)
        for text in TEXTS:
            expected = by_codes(np.arange(1, N + 1), random_codes(), text, 20)
            assert near.search(text, 20).views.tolist() == expected
