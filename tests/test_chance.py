"""Scores of the bank over an index: of photos, exact, kept for one state of it, made again where a file is damaged."""

from __future__ import annotations

import zlib
from pathlib import Path

import by_hand
import numpy as np
import pytest
from fake import FakeEncoder, fake_engine, fake_settings, paint_red

from flairsearch import chance, grouping
from flairsearch.cache import checksum
from flairsearch.catalog import Catalog
from flairsearch.chance import bank_scores
from flairsearch.reader import Reader
from flairsearch.rerank_many import ManyTexts

COUNT = 12


def make_bank(vectors: np.ndarray | None) -> ManyTexts:
    encoder = FakeEncoder()
    return ManyTexts(encoder.bank() if vectors is None else encoder.fold(vectors), encoder.pool_weights)


def nobody(vectors: np.ndarray | None) -> ManyTexts:
    raise AssertionError("the bank was asked again")


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    for number in range(1, COUNT + 1):
        paint_red(tmp_path / "photos" / f"{number:02d}.png", 4 * number)
    with fake_engine(tmp_path / "index") as engine:
        engine.add(tmp_path / "photos")
    for file in (tmp_path / "index" / "prefilter").glob("*.chance"):
        file.unlink()
    return tmp_path / "index"


def open_reader(index: Path) -> Reader:
    catalog = Catalog(index)
    reader = Reader(index, fake_settings(), catalog)
    catalog.close()
    return reader


def expected(reader: Reader, step: int = 1) -> np.ndarray:
    """Of every step-th photo, in the order of their contents."""
    views = reader.views.id[::step]
    views = views[np.argsort(reader.contents(views))]
    encoder, tokens = FakeEncoder(), reader.encoded(views).tokens
    return np.stack([by_hand.score(tokens, query, encoder.pool_weights) for query in encoder.bank()], 1)


def test_every_text_scores_every_photo_exactly_and_is_asked_once(filled: Path) -> None:
    reader = open_reader(filled)
    scores = bank_scores(reader, make_bank)
    np.testing.assert_allclose(scores, expected(reader), atol=1e-5)
    np.testing.assert_array_equal(bank_scores(reader, nobody), scores)
    np.testing.assert_array_equal(bank_scores(open_reader(filled), nobody), scores)  # another process


@pytest.mark.parametrize("harm", ["cut", "one byte", "empty", "gone", "whole, of another kind"])
def test_a_damaged_file_is_made_again(filled: Path, harm: str) -> None:
    scores = bank_scores(open_reader(filled), make_bank)
    (file,) = (filled / "prefilter").glob("*.chance")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes({"cut": data[:-4], "one byte": data}.get(harm, b""))
    if harm == "gone":
        file.unlink()
    if harm == "whole, of another kind":
        file.write_bytes((5).to_bytes(8, "little") + bytes(12))
        file.rename(file.with_name(f"{file.stem.partition('-')[0]}-{checksum(file):08x}.chance"))
    np.testing.assert_array_equal(bank_scores(open_reader(filled), make_bank), scores)


def test_indexing_makes_them_and_another_state_has_its_own(filled: Path) -> None:
    bank_scores(open_reader(filled), make_bank)
    paint_red(filled.parent / "photos" / "99.png", 60)
    with fake_engine(filled) as engine:
        engine.add(filled.parent / "photos")
    reader = open_reader(filled)
    scores = bank_scores(reader, nobody)
    assert len(scores) == COUNT + 1
    np.testing.assert_allclose(scores, expected(reader), atol=1e-5)


def test_photos_are_spread_over_the_index_and_texts_over_the_bank(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chance, "PHOTOS", 4)
    monkeypatch.setattr(chance, "TEXTS", 2)
    reader = open_reader(filled)
    np.testing.assert_allclose(bank_scores(reader, make_bank), expected(reader, 3)[:, ::4], atol=1e-5)


def test_of_several_views_a_photo_scores_the_mean_of_its_best() -> None:
    """Three photos of one, two and five views, in any order."""
    rng = np.random.default_rng(0)
    contents = rng.permutation(np.repeat([7, 3, 5], [1, 2, 5]))
    parts = rng.normal(size=(8, 6)).astype(np.float32)
    found = grouping.of_photos(contents, parts)
    for row, content in zip(found, (3, 5, 7), strict=True):
        of_each = [by_hand.of_photo(parts[contents == content][:, [i]], [1.0], 3)[0] for i in range(6)]
        np.testing.assert_allclose(row, of_each, rtol=1e-6)


def test_an_empty_index_has_none(tmp_path: Path) -> None:
    fake_engine(tmp_path / "index").close()
    assert len(bank_scores(open_reader(tmp_path / "index"), make_bank)) == 0


def test_those_of_an_older_state_do_while_little_has_changed(filled: Path) -> None:
    old = bank_scores(open_reader(filled), make_bank)
    with fake_engine(filled) as engine:
        for number in (1, 2, 3):  # a quarter of them
            engine.forget(filled.parent / "photos" / f"{number:02d}.png")
    np.testing.assert_array_equal(bank_scores(open_reader(filled), nobody), old)
    with pytest.raises(AssertionError, match="asked again"):
        bank_scores(open_reader(filled), nobody, exact=True)
    with fake_engine(filled) as engine:
        engine.forget(filled.parent / "photos" / "04.png")
    reader = open_reader(filled)
    with pytest.raises(AssertionError, match="asked again"):
        bank_scores(reader, nobody)
    scores = bank_scores(reader, make_bank)
    assert len(scores) == COUNT - 4
    np.testing.assert_allclose(scores, expected(reader), atol=1e-5)
    assert len(list((filled / "prefilter").glob("*.chance"))) == 1


def test_a_file_of_another_format_is_no_longer_in_the_way(filled: Path) -> None:
    reader = open_reader(filled)
    scores = bank_scores(reader, make_bank)
    (file,) = (filled / "prefilter").glob("*.chance")
    for number in range(8):  # whichever is found first
        data = file.read_bytes()[8:] + bytes([number])
        (file.parent / f"{file.name.partition('-')[0]}-{zlib.crc32(data):08x}.chance").write_bytes(data)
    file.unlink()
    np.testing.assert_array_equal(bank_scores(reader, make_bank), scores)
    np.testing.assert_array_equal(bank_scores(open_reader(filled), nobody), scores)
