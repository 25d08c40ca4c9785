"""Codes of views on disk: whatever happens to the files, a view has the code that was written for it, or none."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flairsearch.shortlist.predictor_file import PredictorFile
from flairsearch.shortlist.score_predictor import ScorePredictor
from tests.support.fits import Codes, a_fit
from tests.support.full_disk import file_limit

WIDTH, DIM = 5, 3
ROW = 8 + 8 + WIDTH + 4  # The bytes of a row.


PREDICTOR = a_fit(0, WIDTH, DIM)


def codes_of(views: Any, seed: int = 0, width: int = WIDTH) -> Any:
    """Return codes i8[n, W] that depend on the view ids and the seed."""
    rngs = [np.random.default_rng([int(view), seed]) for view in views]
    return np.array([rng.integers(-127, 128, width) for rng in rngs], np.int8).reshape(-1, width)


def append(
    predictor_file: PredictorFile, views: Any, generation: int = 1, seed: int = 0, fit: ScorePredictor = PREDICTOR
) -> None:
    ids = np.asarray(list(views), np.int64)
    predictor_file.append(fit, ids, codes_of(ids, seed, len(fit.quant_steps)), generation)


def found(predictor_file: PredictorFile, generation: int = 99, fit: ScorePredictor = PREDICTOR) -> Codes:
    """Return the code of each view: that of its last intact row."""
    rows = predictor_file.rows(fit, generation)
    intact = predictor_file.intact(fit, rows)
    return {int(row["view"]): row["codes"].tolist() for row, good in zip(rows, intact, strict=True) if good}


def expected(views: Any, seed: int = 0) -> Codes:
    return {int(view): codes.tolist() for view, codes in zip(views, codes_of(views, seed), strict=True)}


@pytest.fixture
def predictor_file(tmp_path: Path) -> PredictorFile:
    predictor_file = PredictorFile(tmp_path, DIM)
    predictor_file.save(PREDICTOR)
    return predictor_file


def names(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "fitted").iterdir())


def test_appended_codes_are_found(predictor_file: PredictorFile, tmp_path: Path) -> None:
    assert found(predictor_file) == {}
    append(predictor_file, [3, 1])
    append(predictor_file, [])
    append(predictor_file, [7], generation=2)
    assert found(predictor_file) == expected([3, 1, 7])
    assert found(PredictorFile(tmp_path, DIM)) == expected([3, 1, 7])
    assert predictor_file.rows(PREDICTOR, 99)["generation"].tolist() == [1, 1, 2]
    again = predictor_file.load()
    assert again is not None
    assert again.crc == PREDICTOR.crc
    assert (tmp_path / "fitted" / "codes").stat().st_size == 3 * ROW
    assert names(tmp_path) == ["codes", "map.npz"]


def test_the_last_intact_row_of_a_view_counts(predictor_file: PredictorFile, tmp_path: Path) -> None:
    for seed in range(3):
        append(predictor_file, [5, 6], seed=seed)
    assert found(predictor_file) == expected([5, 6], seed=2)
    file = tmp_path / "fitted" / "codes"
    data = bytearray(file.read_bytes())
    data[4 * ROW + 20] ^= 1  # This damages the last row of view 5.
    file.write_bytes(data)
    assert found(predictor_file) == expected([5], seed=1) | expected([6], seed=2)


def test_an_append_may_be_killed_at_any_byte(predictor_file: PredictorFile, tmp_path: Path) -> None:
    """Complete rows are found, and rows appended later are not misaligned by the partial row."""
    append(predictor_file, range(1, 5))
    file = tmp_path / "fitted" / "codes"
    whole = file.read_bytes()
    for cut in range(4 * ROW + 1):
        file.write_bytes(whole[:cut])
        kept = list(range(1, cut // ROW + 1))
        assert found(predictor_file) == expected(kept), cut
        append(predictor_file, [8, 9])
        assert found(predictor_file) == expected([*kept, 8, 9]), cut
        assert file.stat().st_size == (len(kept) + 2) * ROW, cut


@pytest.mark.parametrize("last", [False, True])
def test_a_flipped_bit_loses_only_its_row(predictor_file: PredictorFile, tmp_path: Path, last: bool) -> None:
    append(predictor_file, range(1, 4))
    file = tmp_path / "fitted" / "codes"
    whole, views = file.read_bytes(), [1, 2] if last else [1, 3]
    for bit in range(8 * ROW):
        data = bytearray(whole)
        data[(2 if last else 1) * ROW + bit // 8] ^= 1 << bit % 8
        file.write_bytes(data)
        assert found(predictor_file) == expected(views), bit
        append(predictor_file, [7])
        assert found(predictor_file) == expected([*views, 7]), bit


def test_rows_of_another_predictor_are_ignored(predictor_file: PredictorFile, tmp_path: Path) -> None:
    append(predictor_file, range(1, 9))
    data = (tmp_path / "fitted" / "codes").read_bytes()
    for other in (a_fit(1, WIDTH, DIM), a_fit(1, WIDTH + 1, DIM), a_fit(1, WIDTH - 2, DIM)):
        assert found(predictor_file, fit=other) == {}
        predictor_file.save(other)
        assert found(predictor_file, fit=other) == {}
        (tmp_path / "fitted" / "codes").write_bytes(data)  # Such a file results if only half of the folder is copied.
        assert found(predictor_file, fit=other) == {}
        append(predictor_file, [2], fit=other)
        assert found(predictor_file, fit=other) == {2: codes_of([2], width=len(other.quant_steps)).tolist()[0]}


def test_a_new_predictor_has_no_codes(predictor_file: PredictorFile, tmp_path: Path) -> None:
    append(predictor_file, range(1, 9))
    predictor_file.save(PREDICTOR)
    assert found(predictor_file) == {}
    assert names(tmp_path) == ["map.npz"]
    predictor_file.remove()
    predictor_file.remove()
    assert predictor_file.load() is None
    assert found(predictor_file) == {}
    assert not (tmp_path / "fitted").exists()


# -- restored backups of the catalogue


def test_rows_of_a_later_generation_are_ignored_and_removed(predictor_file: PredictorFile, tmp_path: Path) -> None:
    append(predictor_file, [1, 2], generation=10)
    append(predictor_file, [3], generation=20)
    append(predictor_file, [4, 5], generation=30)
    for generation, count in ((9, 0), (10, 2), (19, 2), (20, 3), (29, 3), (30, 5)):
        assert found(predictor_file, generation) == expected(range(1, count + 1))
    append(predictor_file, [3, 4], generation=15, seed=7)
    assert found(predictor_file, 10**18) == expected([1, 2]) | expected([3, 4], seed=7)
    assert (tmp_path / "fitted" / "codes").stat().st_size == 4 * ROW
    assert names(tmp_path) == ["codes", "map.npz"]


def test_rows_of_views_that_do_not_exist_yet_are_removed(predictor_file: PredictorFile, tmp_path: Path) -> None:
    """Generations grow by random amounts, so the next one may be above those that were lost."""
    append(predictor_file, [1, 2], generation=10)
    append(predictor_file, [3, 4], generation=20)
    append(predictor_file, [2, 5], generation=30, seed=7)
    file = tmp_path / "fitted" / "codes"
    before = file.stat()
    predictor_file.drop_after(5, 30)
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
    )  # The file was not rewritten.
    predictor_file.drop_after(3, 25)
    assert found(predictor_file, 10**18) == expected([1, 2, 3])
    append(predictor_file, [3, 4], generation=40)
    predictor_file.drop_after(1, 99)
    assert found(predictor_file, 10**18) == expected([1])
    append(predictor_file, [4, 9, 2], generation=60)
    predictor_file.drop_after(8, 99)
    assert predictor_file.rows(PREDICTOR, 99)["view"].tolist() == [
        1,
        0,
        0,
        0,
        0,
        0,
        4,
        0,
        2,
    ]  # Each row keeps its position.
    predictor_file.drop_after(1, 99)
    predictor_file.drop_after(0, 99)
    assert found(predictor_file, 10**18) == {}
    append(predictor_file, [1], generation=50)
    assert found(predictor_file, 50) == expected([1])
    assert names(tmp_path) == ["codes", "map.npz"]


def test_later_generations_before_a_damaged_row_are_removed(predictor_file: PredictorFile, tmp_path: Path) -> None:
    append(predictor_file, [1], generation=10)
    append(predictor_file, [2, 3], generation=20)
    file = tmp_path / "fitted" / "codes"
    data = bytearray(file.read_bytes())
    data[2 * ROW + 8] = 0  # The last row's generation becomes 0.
    file.write_bytes(data)
    predictor_file.drop_after(1, 10)
    assert found(predictor_file, 10**18) == expected([1])


def test_drop_after_without_files(tmp_path: Path) -> None:
    PredictorFile(tmp_path, DIM).drop_after(3, 1)
    assert list(tmp_path.iterdir()) == []
    predictor_file = PredictorFile(tmp_path, DIM)
    predictor_file.save(PREDICTOR)
    predictor_file.drop_after(3, 1)
    assert names(tmp_path) == ["map.npz"]


# -- the folder


def no_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def cut_fit(folder: Path) -> None:
    (folder / "map.npz").write_bytes((folder / "map.npz").read_bytes()[:-9])


def empty_fit(folder: Path) -> None:
    (folder / "map.npz").write_bytes(b"")


def no_fit(folder: Path) -> None:
    (folder / "map.npz").unlink()


def a_folder_for_the_fit(folder: Path) -> None:
    no_fit(folder)
    (folder / "map.npz").mkdir()


def a_fit_of_other_dims(folder: Path) -> None:
    replace(a_fit(0, WIDTH, DIM), texts=np.zeros((8, DIM + 1), np.float32)).save(folder / "map.npz")


def a_file_for_the_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_bytes(b"mine")


def a_link(folder: Path) -> None:
    no_fit(folder)
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to(folder.with_name("elsewhere"))


def a_broken_link(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to("nowhere")


DAMAGE = (no_folder, cut_fit, empty_fit, no_fit, a_folder_for_the_fit, a_fit_of_other_dims)
OBSTACLES = (a_file_for_the_folder, a_link, a_broken_link)


@pytest.mark.parametrize("damage", DAMAGE + OBSTACLES, ids=lambda damage: damage.__name__)
def test_without_a_predictor_everything_is_rewritten(
    predictor_file: PredictorFile, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    append(predictor_file, [1, 2])
    damage(tmp_path / "fitted")
    assert predictor_file.load() is None
    predictor_file.drop_after(1, 1)
    predictor_file.save(a_fit(3, WIDTH, DIM))
    again = predictor_file.load()
    assert again is not None
    assert again.crc == a_fit(3, WIDTH, DIM).crc
    append(predictor_file, [4], fit=again)
    assert found(predictor_file, fit=again) == expected([4])
    assert names(tmp_path) == ["codes", "map.npz"]


@pytest.mark.parametrize("damage", ["deleted", "a folder", "a file for the folder", "empty"])
def test_unreadable_codes_are_ignored(predictor_file: PredictorFile, tmp_path: Path, damage: str) -> None:
    append(predictor_file, [1, 2])
    file = tmp_path / "fitted" / "codes"
    file.unlink()
    if damage == "a folder":
        file.mkdir()
        for number in range(3):
            (file / f"{number}").write_bytes(b"")
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "a file for the folder":
        a_file_for_the_folder(tmp_path / "fitted")
    assert len(predictor_file.rows(PREDICTOR, 9)) == 0
    assert found(predictor_file) == {}


def test_a_folder_without_permissions(open_folder: Path, as_user: Callable[[], AbstractContextManager[None]]) -> None:
    predictor_file = PredictorFile(open_folder, DIM)
    predictor_file.save(PREDICTOR)
    append(predictor_file, [1, 2])
    for path in (open_folder / "fitted", *(open_folder / "fitted").iterdir()):
        path.chmod(0o555 if path.is_dir() else 0o444)
    with as_user():
        assert found(predictor_file) == expected([1, 2])
        assert predictor_file.load() is not None
        for change in (
            lambda: append(predictor_file, [3]),
            lambda: predictor_file.save(PREDICTOR),
            lambda: predictor_file.drop_after(1, 1),
        ):
            with pytest.raises(OSError):  # noqa: PT011
                change()
        assert found(predictor_file) == expected([1, 2])
    (open_folder / "fitted" / "codes").chmod(0)
    with as_user():
        assert found(predictor_file) == {}


@pytest.mark.parametrize("room", [0, 1, ROW - 1, ROW, 2 * ROW + 3])
def test_a_full_disk_keeps_existing_rows(predictor_file: PredictorFile, room: int) -> None:
    append(predictor_file, [1, 2])
    with file_limit(2 * ROW + room), pytest.raises(OSError):  # noqa: PT011
        append(predictor_file, range(3, 9))
    assert found(predictor_file) == expected(range(1, 3 + room // ROW))
    append(predictor_file, range(3, 9))
    assert found(predictor_file) == expected(range(1, 9))


def test_a_full_disk_while_rows_are_removed(predictor_file: PredictorFile, tmp_path: Path) -> None:
    append(predictor_file, range(1, 6), generation=1)
    append(predictor_file, range(6, 9), generation=5)
    for change in (lambda: predictor_file.drop_after(5, 1), lambda: append(predictor_file, [6], generation=2, seed=3)):
        with file_limit(3 * ROW), pytest.raises(OSError):  # noqa: PT011
            change()
        assert found(predictor_file, 1) == expected(range(1, 6))
    append(predictor_file, [6], generation=2, seed=3)
    assert found(predictor_file, 99) == expected(range(1, 6)) | expected([6], seed=3)
    assert names(tmp_path) == ["codes", "map.npz"]


def test_a_full_disk_at_the_start(tmp_path: Path) -> None:
    predictor_file = PredictorFile(tmp_path, DIM)
    with file_limit(100), pytest.raises(OSError):  # noqa: PT011
        predictor_file.save(PREDICTOR)
    assert predictor_file.load() is None
    predictor_file.save(PREDICTOR)
    assert predictor_file.load() is not None
    assert names(tmp_path) == ["map.npz"]


# -- readers


def test_mapped_rows_do_not_change(tmp_path: Path) -> None:
    """The writer may replace the files meanwhile. There are many pages of rows, because a lost page raises SIGBUS."""
    predictor_file = PredictorFile(tmp_path, DIM)
    for change in (
        lambda: predictor_file.save(PREDICTOR),
        predictor_file.remove,
        lambda: append(predictor_file, [3], generation=1),  # Most of the other rows are of later generations.
        lambda: predictor_file.drop_after(2, 99),
        lambda: append(predictor_file, [1], generation=99),
    ):
        predictor_file.save(PREDICTOR)
        for generation in range(1, 5):
            append(predictor_file, range(1, 501), generation, seed=generation)
        with (tmp_path / "fitted" / "codes").open("ab") as stream:
            stream.write(b"part of a row")
        mapped = predictor_file.rows(PREDICTOR, 99)
        before = bytes(bytearray(mapped.tobytes()))
        change()
        assert mapped.tobytes() == before
        assert predictor_file.intact(PREDICTOR, mapped).all()


def test_readers_during_writes(tmp_path: Path) -> None:
    """Readers see written codes or none, and never get an error."""
    predictor_file, stop = PredictorFile(tmp_path, DIM), threading.Event()
    allowed = expected(range(1, 40))
    wrong: list[object] = []

    def read() -> None:
        try:
            while not stop.is_set():
                PredictorFile(tmp_path, DIM).load()
                wrong.extend(
                    view for view, codes in found(PredictorFile(tmp_path, DIM)).items() if allowed[view] != codes
                )
        except BaseException as error:
            wrong.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for turn in range(40):
        predictor_file.save(PREDICTOR)
        append(predictor_file, range(1, 20), generation=turn)
        append(predictor_file, range(20, 40), generation=turn + 40)
        append(predictor_file, range(20, 30), generation=turn)
        predictor_file.drop_after(10, 99)
        with (tmp_path / "fitted" / "codes").open("ab") as stream:
            stream.write(b"part of a row")
        append(predictor_file, [11], generation=turn)
        predictor_file.remove()
    stop.set()
    for reader in readers:
        reader.join()
    assert wrong == []
