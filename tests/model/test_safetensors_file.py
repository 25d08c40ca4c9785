"""Mapped tensors against the safetensors library, and files with false headers."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from flairsearch.core.errors import WeightsError
from flairsearch.model.safetensors_file import SafetensorsFile, check_file, read_metadata

TYPES = {"F16": torch.float16, "F32": torch.float32, "F64": torch.float64, "BF16": torch.bfloat16}
SHAPES = [(), (1,), (7,), (0,), (3, 0, 5), (2, 3), (4, 1, 5), (5, 3, 2, 2)]


def write(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    """Write a file with a header (an object for JSON, or raw bytes), the data, and perhaps a false header length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def tensor_entry(kind: Any = "F32", shape: Any = (2, 3), offsets: Any = (0, 24)) -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": offsets}


def data_start(path: Path) -> int:
    """The offset at which the tensors of a file begin."""
    (length,) = struct.unpack("<Q", path.read_bytes()[:8])
    return 8 + int(length)


def refusal(path: Path) -> str:
    """Check that the file is refused with one line of printable text, and return it."""
    with pytest.raises(WeightsError) as caught:
        SafetensorsFile(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert " - " in message
    message.encode()
    return message


def open_or_none(path: Path) -> SafetensorsFile | None:
    """Open a file; None if it is refused with one line."""
    try:
        return SafetensorsFile(path)
    except WeightsError as error:
        return None if len(str(error).splitlines()) == 1 else pytest.fail(f"not one line: {error!a}")


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A file with every type in every shape and of all magnitudes; odd lengths leave later tensors unaligned."""
    torch.manual_seed(0)
    tensors = {}
    for name, kind in TYPES.items():
        for shape in SHAPES:
            tensors[f"{name}.{list(shape)}"] = (torch.randn(shape) * 10 ** (4 * torch.randn(shape))).to(kind)
    tensors["odd"] = torch.tensor([0.0, -0.0, float("inf"), float("-inf"), 1e-40, 3.4e38, 1.1754942e-38])
    tensors["none"] = torch.tensor([float("nan"), 1.0], dtype=torch.bfloat16)
    tensors["half.tiny"] = torch.tensor([6e-8, -6e-8, 65504, float("inf")], dtype=torch.float16)
    save_file(tensors, tmp_path / "x.safetensors", {"name": "x", "config": "{}"})
    return tmp_path / "x.safetensors", tensors


def test_equals_the_library(saved: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path, tensors = saved
    found, theirs = SafetensorsFile(path), load_file(path)
    assert set(found) == set(tensors) == set(theirs)
    assert len(found) == len(tensors)
    assert "__metadata__" not in found
    for name, tensor in theirs.items():
        assert (found[name].dtype, found[name].shape) == (np.float32, tuple(tensor.shape))
        assert found.shape(name) == tuple(tensor.shape)
        np.testing.assert_array_equal(found[name], tensor.float().numpy())
        assert np.signbit(found[name]).tolist() == torch.signbit(tensor.float()).tolist()
    with pytest.raises(KeyError):
        found["nothing"]


def test_metadata_equals_the_librarys(saved: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path) -> None:
    with safe_open(saved[0], "pt") as theirs:
        assert read_metadata(saved[0]) == theirs.metadata() == {"name": "x", "config": "{}"}
    assert read_metadata(write(tmp_path / "none", {})) == {}


@pytest.mark.parametrize("kind", TYPES)
def test_rows(kind: str, tmp_path: Path) -> None:
    table = torch.randn(50, 3, 4).to(TYPES[kind])
    save_file({"t": table}, tmp_path / "x.safetensors")
    found = SafetensorsFile(tmp_path / "x.safetensors")
    for indices in ([0], [49, 3, 3, 0], [], list(range(50)), [[1, 2, 3], [4, 4, 0]]):
        rows = found.rows("t", np.array(indices, np.int64))
        assert rows.dtype == np.float32
        np.testing.assert_array_equal(rows, table.float().numpy()[np.array(indices, np.int64)])
        rows += 1  # The rows are a copy.
    np.testing.assert_array_equal(found["t"], table.float().numpy())


def test_float32_is_mapped(tmp_path: Path) -> None:
    """Opening and slicing a tensor reads no data, and the tensor cannot be written to."""
    big = torch.randn(1 << 20)
    save_file({"big": big, "half": big[:8].half()}, tmp_path / "x.safetensors")
    tracemalloc.start()
    try:
        found = SafetensorsFile(tmp_path / "x.safetensors")
        mapped = found["big"]
        part = found["big"][1000:2000].reshape(10, 100).T
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()
    assert np.shares_memory(mapped, found["big"])
    assert np.shares_memory(mapped, part)
    assert not mapped.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        mapped[0] = 1
    np.testing.assert_array_equal(mapped, big.numpy())


def test_unaligned_data(tmp_path: Path, subtests: pytest.Subtests) -> None:
    """With headers of any length, numbers may start at an odd byte."""
    for pad in range(9):
        with subtests.test(f"after {pad} spaces"):
            values = np.arange(6, dtype="<f4").reshape(2, 3)
            text = json.dumps({"t": tensor_entry()}).encode() + b" " * pad
            found = SafetensorsFile(write(tmp_path / f"{pad}", text, values.tobytes()))
            np.testing.assert_array_equal(found["t"] @ np.eye(3, dtype=np.float32), values)


def test_empty_files(tmp_path: Path) -> None:
    assert dict(SafetensorsFile(write(tmp_path / "a", {}))) == {}
    assert dict(SafetensorsFile(write(tmp_path / "b", {"__metadata__": {"a": "b"}}))) == {}
    assert dict(SafetensorsFile(write(tmp_path / "n", {"__metadata__": None}))) == {}
    assert SafetensorsFile(write(tmp_path / "c", {"t": tensor_entry(shape=[0, 4], offsets=[0, 0])}))["t"].shape == (
        0,
        4,
    )


# -- Damaged files

HUGE = 2**63
FALSE_ENTRIES: dict[str, Any] = {
    "negative start": tensor_entry(offsets=[-24, 0]),
    "negative both": tensor_entry(offsets=[-48, -24]),
    "past the end": tensor_entry(offsets=[8, 32]),
    "far past the end": tensor_entry(offsets=[HUGE, HUGE + 24]),
    "turned round": tensor_entry(offsets=[24, 0]),
    "too short": tensor_entry(offsets=[0, 20]),
    "too long": tensor_entry(shape=[1, 3]),
    "not whole numbers of four bytes": tensor_entry(shape=[5], offsets=[0, 21]),
    "half a number": tensor_entry("F64", [3], [0, 20]),
    "other type": tensor_entry("F16"),
    "unknown type": tensor_entry("I64", [3]),
    "undefined type": tensor_entry("float32"),
    "type in lower case": tensor_entry("f32"),
    "type of none": tensor_entry(None),
    "type as a list": tensor_entry(["F32"]),
    "type as a dict": tensor_entry({"F32": 1}),
    "no type": {"shape": [2, 3], "data_offsets": [0, 24]},
    "no shape": {"dtype": "F32", "data_offsets": [0, 24]},
    "no place": {"dtype": "F32", "shape": [2, 3]},
    "shape as a number": tensor_entry(shape=6),
    "shape as text": tensor_entry(shape="23"),
    "shape as a dict": tensor_entry(shape={"2": 3}),
    "shape of fractions": tensor_entry(shape=[2.0, 3.0]),
    "shape of texts": tensor_entry(shape=["2", "3"]),
    "shape of truths": tensor_entry(shape=[True, 6]),
    "shape of lists": tensor_entry(shape=[[2], [3]]),
    "shape below nothing": tensor_entry(shape=[-2, -3]),
    "shape left open": tensor_entry(shape=[2, -1]),
    "shape of none": tensor_entry(shape=None),
    "huge shape": tensor_entry(shape=[HUGE, HUGE]),
    "huge by nothing": tensor_entry(shape=[HUGE, 0], offsets=[0, 0]),
    "nothing by huge": tensor_entry(shape=[0, 2**70], offsets=[0, 0]),
    "nothing by very large": tensor_entry(shape=[0, 2**62, 2**62], offsets=[0, 0]),
    "large enough to go round": tensor_entry(shape=[2**62, 2**2 + 1, 2], offsets=[0, 8]),
    "a thousand sides": tensor_entry(shape=[1] * 1000, offsets=[0, 4]),
    "one offset": tensor_entry(offsets=[24]),
    "three offsets": tensor_entry(offsets=[0, 12, 24]),
    "no offsets": tensor_entry(offsets=None),
    "offset as a number": tensor_entry(offsets=24),
    "offsets of truths": tensor_entry(shape=[], offsets=[False, 4]),
    "offsets of fractions": tensor_entry(offsets=[0.0, 24.0]),
    "offsets of texts": tensor_entry(offsets=["0", "24"]),
    "offsets without end": tensor_entry(offsets=[0, float("inf")]),
    "offsets of nan": tensor_entry(offsets=[float("nan"), 24]),
    "a list": [1, 2],
    "a number": 7,
    "a text": "F32",
    "nothing": None,
    "truth": True,
}


@pytest.mark.filterwarnings("error")
def test_false_entries_are_refused(tmp_path: Path, subtests: pytest.Subtests) -> None:
    data = np.arange(6, dtype="<f4").tobytes()
    good = {"good": tensor_entry()}
    for number, (name, entry) in enumerate(FALSE_ENTRIES.items()):
        with subtests.test(name):
            folder = tmp_path / str(number)
            folder.mkdir()
            tracemalloc.start()
            try:
                message = refusal(write(folder / "x.safetensors", good | {"bad one": entry}, data))
                assert tracemalloc.get_traced_memory()[1] < 1_000_000
            finally:
                tracemalloc.stop()
            assert "x.safetensors" in message
            np.testing.assert_array_equal(
                SafetensorsFile(write(folder / "y", good, data))["good"].ravel(), np.arange(6)
            )


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31m", "\ud800", "a" * 100_000, "\u2028", "", "\x00"])
def test_names_with_unprintable_letters(name: str, tmp_path: Path) -> None:
    """A name is quoted in the message; the name of a type is not."""
    assert len(refusal(write(tmp_path / "x", {name: tensor_entry(shape=[9])}, bytes(24)))) < 1000
    refusal(write(tmp_path / "x", {"t": tensor_entry(name)}, bytes(24)))


HEADERS: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"{this is not",
    "cut": b'{"t": {"dtype": "F32"',
    "two objects": b"{} {}",
    "a list": b"[]",
    "a text": b'"t"',
    "a number": b"1",
    "null": b"null",
    "not UTF-8": b'{"\xff\xfe": 1}',
    "zero bytes": bytes(20),
    "a number of 10,000 digits": b'{"t": ' + b"9" * 10_000 + b"}",
    "deep": b'{"t":' * 100_000 + b"1" + b"}" * 100_000,
    "deep lists": b"[" * 200_000,
    "deep in a place": b'{"t": {"dtype": "F32", "data_offsets": [0, 0], "shape": ' + b"[" * 99_999,
    "metadata as a list": b'{"__metadata__": []}',
    "metadata as a text": b'{"__metadata__": "config"}',
}  # fmt: skip


def test_invalid_headers_are_refused(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for number, (name, header) in enumerate(HEADERS.items()):
        with subtests.test(name):
            refusal(write(tmp_path / str(number), header, bytes(64)))
            refusal(write(tmp_path / str(number), header))


LENGTHS = [0, 1, 40, 10_000, 100 << 20, 2**31, 2**63 - 1, 2**63, 2**64 - 1]


def test_false_lengths_are_refused(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for length in LENGTHS:
        with subtests.test(str(length)):
            path = write(tmp_path / str(length), {"t": tensor_entry()}, bytes(24), length)
            tracemalloc.start()
            try:
                refusal(path)
                assert tracemalloc.get_traced_memory()[1] < 1_000_000
            finally:
                tracemalloc.stop()


def test_a_length_just_beyond_the_end(tmp_path: Path) -> None:
    """The header length exceeds the file by less than its own eight bytes."""
    text = json.dumps({"t": tensor_entry(shape=[0], offsets=[0, 0])}).encode()
    for more in range(1, 10):
        found = open_or_none(write(tmp_path / "x", text, b"", len(text) + more))
        assert found is None or found["t"].shape == (0,)
    refusal(write(tmp_path / "x", {"t": tensor_entry()}, b"", 2 + len(json.dumps({"t": tensor_entry()}))))


def test_files_cut_anywhere(saved: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path) -> None:
    whole = saved[0].read_bytes()
    start = data_start(saved[0])
    rng = np.random.default_rng(0)
    for size in {*range(12), start - 1, start, start + 1, len(whole) - 1, *rng.integers(0, len(whole), 40).tolist()}:
        (tmp_path / "cut").write_bytes(whole[:size])
        refusal(tmp_path / "cut")


def test_headers_with_wrong_bytes(tmp_path: Path) -> None:
    """Such a file either gives tensors within the file or is refused with one line."""
    save_file({"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4).half()}, tmp_path / "x", {"k": "v"})
    whole, rng, refused = (tmp_path / "x").read_bytes(), np.random.default_rng(0), 0
    start = data_start(tmp_path / "x")
    for _ in range(700):
        data = bytearray(whole)
        for at in rng.integers(8, start, rng.integers(1, 4)):
            data[at] = rng.choice([*b'0123456789-"{}[],:eF.', int(rng.integers(256))])
        (tmp_path / "y").write_bytes(data)
        found = open_or_none(tmp_path / "y")
        refused += found is None
        assert found is None or sum(found[name].nbytes for name in found) <= 2 * len(whole)
    assert 200 < refused < 700


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    for path in (
        tmp_path,
        tmp_path / "nothing",
        tmp_path / "nothing" / "x",
        Path("/dev/null"),
        tmp_path / ("x" * 5000),
    ):
        refusal(path)
        with pytest.raises(WeightsError, match="check the path"):
            check_file(path)


def test_a_file_without_read_permission(open_folder: Path, as_user: Any) -> None:
    path = write(open_folder / "x", {})
    path.chmod(0)
    with as_user():
        refusal(path)


def test_it_needs_no_torch(saved: tuple[Path, dict[str, torch.Tensor]]) -> None:
    code = (
        "import sys; from pathlib import Path; from flairsearch.model.safetensors_file import SafetensorsFile\n"
        "print(sum(tensor.size for tensor in SafetensorsFile(Path(sys.argv[1])).values()))\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code, saved[0]], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) == sum(tensor.numel() for tensor in saved[1].values())
