"""Encoded pictures and texts against the model itself in float64, and the bank of texts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from flairsearch.core.errors import UsageError
from flairsearch.core.types import EncodedText, EncodedViews, Frame, Picture
from flairsearch.model import checkpoints, prompts
from flairsearch.model.encoder import TorchEncoder, choose_device, choose_precision
from flairsearch.model.flair import LAYER_NORM_EPS
from flairsearch.model.prompts import phrases
from tests.support.full_disk import file_limit
from tests.support.random_flair import SMALL, oracle_image, oracle_text, random_flair, random_pictures, save_flair

torch.set_num_threads(2)
COUNT, SIZE = 9, SMALL.image_size


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file in the cache, so that it is not imported again."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLAIRSEARCH_CACHE", str(folder))
        return checkpoints.import_file(save_flair(random_flair(), folder / "random.safetensors")).path


@pytest.fixture(autouse=True)
def cache(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAIRSEARCH_CACHE", str(path.parent.parent))


@pytest.fixture
def encoder(path: Path) -> TorchEncoder:
    return TorchEncoder(str(path), "cpu", torch.float32)


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    frame = Frame(SIZE, SIZE, 0, 0, SIZE, SIZE)
    return [Picture(pixels, frame) for pixels in random_pictures(COUNT, SIZE)]


def tokens_by_oracle(pictures: list[Picture]) -> tuple[torch.Tensor, torch.Tensor]:
    """The global and local tokens of the pictures in float64, after the model's own preprocessing."""
    from PIL import Image

    model = random_flair()
    return oracle_image(model, torch.stack([model.preprocess(Image.fromarray(p.pixels)) for p in pictures]))


def test_stored_tokens_restore_the_local_tokens(encoder: TorchEncoder, pictures: list[Picture]) -> None:
    """The stored x is the LayerNorm of L without gain, and s (x + r) = L."""
    encoded = encoder.encode_images(pictures)
    pooled, local = tokens_by_oracle(pictures)
    x, r, s = (torch.from_numpy(part).double() for part in (encoded.tokens, encoded.shift, encoded.scale))
    dim = local.shape[-1]
    assert (
        x - F.layer_norm(local, (dim,), eps=LAYER_NORM_EPS)
    ).abs().max() <= 2e-3  # This is half a step of float16 near 4.
    again = s[..., None] * (x + r[..., None])
    assert (again - local).abs().max() <= 2e-3 * local.abs().max()
    assert np.abs(encoded.pooled - F.normalize(pooled, dim=-1).numpy()).max() <= 1e-3
    assert np.abs(np.linalg.norm(encoded.pooled.astype(np.float32), axis=1) - 1).max() <= 1e-3
    assert {part.dtype for part in vars(encoded).values()} == {np.dtype(np.float16)}


def columns(encoded: EncodedViews) -> list[np.ndarray]:
    return [part.astype(np.float32) for part in (encoded.pooled, encoded.tokens, encoded.shift, encoded.scale)]


def test_a_picture_does_not_depend_on_its_neighbours(encoder: TorchEncoder, pictures: list[Picture]) -> None:
    together = columns(encoder.encode_images(pictures))
    for i in (0, COUNT - 1):
        alone = columns(encoder.encode_images([pictures[i]]))
        for batch, single in zip(together, alone, strict=True):
            assert np.abs(batch[i] - single[0]).max() <= 4e-3  # This is one step of float16.
    assert np.abs(together[1][0] - together[1][1]).max() > 0.1  # The pictures differ.


def test_fast_precision_is_close(path: Path, encoder: TorchEncoder, pictures: list[Picture]) -> None:
    fast = TorchEncoder(str(path), "cpu", torch.bfloat16)
    stored = (columns(each.encode_images(pictures))[:2] for each in (encoder, fast))
    for a, b in zip(*stored, strict=True):
        cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
        assert cosine.min() >= 0.999
        assert cosine.min() < 1  # The precisions do differ.
    exact_text, fast_text = encoder.encode_texts(["a dog"])[0], fast.encode_texts(["a dog"])[0]
    assert np.array_equal(exact_text.vector, fast_text.vector)  # Texts are encoded in float32.


def test_queries_are_the_models_text_vectors(encoder: TorchEncoder) -> None:
    texts = ["a red ball", "two dogs run over the grass != sand", "x " * 100]
    model = random_flair()
    queries = encoder.encode_texts(texts)
    expected = oracle_text(model, model.tokenize(texts)).numpy()
    assert [query.text for query in queries] == texts
    assert np.abs(np.stack([query.vector for query in queries]) - expected).max() <= 1e-5
    heads, dim = SMALL.pool_heads, SMALL.embed_dim
    assert {(q.u.shape, q.c.shape, q.u.dtype) for q in queries} == {((heads, dim), (heads,), np.dtype(np.float32))}


def pool_by_hand(encoder: TorchEncoder, vector: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """pool(t, L) from tokens x f64[P, D], by the folded form (softmax with a zero key, as in FLAIR's paper)."""
    weights = encoder.pool_weights
    (query,) = encoder.fold(vector[None].astype(np.float32))
    heads = []
    for u, c, value, bias in zip(query.u, query.c, weights.value, weights.value_bias, strict=True):
        share = np.exp(tokens @ u.astype(np.float64) + c)
        share /= share.sum() + 1
        heads.append(value.astype(np.float64) @ (share @ tokens) + share.sum() * bias)
    return weights.out.astype(np.float64) @ np.concatenate(heads) + weights.out_bias


def test_an_example_picture(encoder: TorchEncoder, path: Path, pictures: list[Picture]) -> None:
    """t = unit(g) + unit(pool(g, L)) in float64, folded like the vector of a text."""
    names = [f"{i}.jpg" for i in range(COUNT)]
    queries = encoder.encode_image_queries(pictures, names)
    pooled, local = tokens_by_oracle(pictures)
    tokens = F.layer_norm(local, local.shape[-1:], eps=LAYER_NORM_EPS).numpy()
    units = F.normalize(pooled, dim=-1).numpy()
    found = np.stack([pool_by_hand(encoder, g, x) for g, x in zip(units, tokens, strict=True)])
    expected = units + found / np.linalg.norm(found, axis=1, keepdims=True)
    assert np.abs(np.stack([query.vector for query in queries]) - expected).max() <= 1e-4
    assert [query.text for query in queries] == names
    assert np.abs(expected[0] - expected[1]).max() > 0.1
    assert_close(encoder.fold(np.stack([query.vector for query in queries])), queries)
    assert_close(encoder.encode_image_queries(pictures[3:4], ["alone"]), queries[3:4])
    fast_queries = TorchEncoder(str(path), "cpu", torch.bfloat16).encode_image_queries(pictures, names)
    for exact, fast in zip(queries, fast_queries, strict=True):
        assert fast.vector.dtype == np.float32
        cosine = exact.vector @ fast.vector / np.linalg.norm(exact.vector) / np.linalg.norm(fast.vector)
        assert 0.999 <= cosine < 1  # The image tower runs in another precision.


def test_model_is_named(encoder: TorchEncoder, path: Path) -> None:
    assert encoder.name == "random"
    assert encoder.weights_hash == checkpoints.describe(path)[1]
    assert encoder.config == SMALL


def test_devices() -> None:
    assert choose_device("auto") in ("cpu", "cuda", "mps")
    assert choose_device("cpu") == "cpu"
    with pytest.raises(UsageError, match="--device"):
        choose_device("abacus")
    assert choose_precision("cpu") in (torch.float32, torch.bfloat16)
    assert choose_precision("mps") == torch.float32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_gpu_equals_cpu(path: Path, encoder: TorchEncoder, pictures: list[Picture]) -> None:
    gpu = TorchEncoder(str(path), "cuda", torch.float32)
    for a, b in zip(columns(gpu.encode_images(pictures)), columns(encoder.encode_images(pictures)), strict=True):
        assert np.abs(a - b).max() <= 4e-3


def test_token_metric_weights_an_error_by_logits_and_scores(encoder: TorchEncoder) -> None:
    """The mean of the model's own metric and mean squares over the phrases, text by text and head by head."""
    weights, model = encoder.pool_weights, encoder._model.folded_pool.token_metric().astype(np.float64)
    heads, part, dim = weights.value.shape
    errors = np.random.default_rng(0).standard_normal((5, dim))
    directions: dict[str, list[np.ndarray]] = {"keys": [], "values": []}
    for query in encoder.encode_texts(phrases()):
        text = query.vector.astype(np.float64) / np.linalg.norm(query.vector)
        for h in range(heads):
            out = weights.out[:, h * part : (h + 1) * part].astype(np.float64)
            directions["keys"].append(query.u[h].astype(np.float64))
            directions["values"].append(text @ out @ weights.value[h])
    for error in errors:
        expected = error @ model @ error
        for rows in directions.values():
            expected += sum((row @ error) ** 2 for row in rows) / sum(row @ row for row in rows)
        assert error @ encoder.token_metric @ error == pytest.approx(expected / 2, rel=1e-4)


# -- The bank of texts


def test_texts_of_the_bank() -> None:
    for count in (0, 1, 500, prompts.BANK_SIZE):
        texts = prompts.texts(count)
        assert len(set(texts)) == len(texts) == count
        assert texts == prompts.texts(prompts.BANK_SIZE)[:count]
    assert prompts.texts() == texts
    assert all(text == " ".join(text.split()) and any(c.isalpha() for c in text) for text in texts)


def test_texts_of_the_bank_are_not_captions_of_the_data() -> None:
    """Shortlists are measured on val.json, so no caption of it may be in the bank; of train.json only short ones."""
    folder = Path(__file__).parents[3] / "shared" / "data" / "flickr8k"
    if not (folder / "val.json").is_file():
        pytest.skip("needs ../shared/data/flickr8k")

    def normalise(text: str) -> str:
        return " ".join(text.lower().replace(".", " ").split())

    texts = {normalise(text) for text in prompts.texts()}
    for name in ("train", "val"):
        photos = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        shared = texts & {normalise(caption) for photo in photos for caption in photo["caption"]}
        assert max((len(text.split()) for text in shared), default=0) <= (5 if name == "train" else 0)
        assert len(shared) < 10


BANK_TEXTS = ["a dog", "two red balls on the grass .", "snow", "a man and a woman", "x " * 100]


@pytest.fixture
def banks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of cached banks, in a cache of its own."""
    monkeypatch.setenv("FLAIRSEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "banks"


def assert_close(found: list[EncodedText], expected: list[EncodedText]) -> None:
    assert len(found) == len(expected)
    for query, other in zip(found, expected, strict=True):
        for a, b in ((query.vector, other.vector), (query.u, other.u), (query.c, other.c)):
            assert a.dtype == b.dtype == np.float32
            np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())


def test_vectors_are_folded_as_texts_are(encoder: TorchEncoder) -> None:
    queries = encoder.encode_texts(BANK_TEXTS)
    assert_close(encoder.fold(np.stack([query.vector for query in queries])), queries)
    assert_close(encoder.fold(np.stack([query.vector for query in queries])[[3, 1]]), [queries[3], queries[1]])


def test_the_bank_is_encoded_once(
    banks: Path, encoder: TorchEncoder, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = encoder.encode_texts(BANK_TEXTS)
    assert_close(encoder.encode_prompts(BANK_TEXTS, batch=2), expected)
    (file,) = banks.iterdir()
    before = file.stat().st_mtime_ns
    other = TorchEncoder(str(path), "cpu", torch.float32)
    monkeypatch.setattr(other, "encode_texts", None)
    for _ in range(2):
        assert_close(other.encode_prompts(BANK_TEXTS), expected)
    assert [found.stat().st_mtime_ns for found in banks.iterdir()] == [before]
    assert_close(encoder.encode_prompts(BANK_TEXTS[::-1]), expected[::-1])  # Another release has another bank.
    assert len(list(banks.iterdir())) == 2


@pytest.mark.parametrize("damage", ["cut", "empty", "longer", "flipped", "zeros", "no numbers", "an archive"])
def test_a_damaged_bank_is_made_again(banks: Path, encoder: TorchEncoder, damage: str) -> None:
    expected = encoder.encode_prompts(BANK_TEXTS)
    (file,) = banks.iterdir()
    data = file.read_bytes()
    broken = {
        "cut": data[:-1],
        "empty": b"",
        "longer": data + b"\0",
        "flipped": data[:50] + bytes([data[50] ^ 64]) + data[51:],
        "zeros": bytes(len(data)),
        "no numbers": b"\xff" * len(data),
        "an archive": b"PK\3\4" + data[4:],
    }
    file.write_bytes(broken[damage])
    for _ in range(2):
        assert_close(encoder.encode_prompts(BANK_TEXTS), expected)
        assert [found.read_bytes() for found in banks.iterdir()] == [data]


@pytest.mark.parametrize("obstacle", ["a file", "a folder", "a full disk", "no permission"])
def test_a_cache_that_cannot_store_the_bank(banks: Path, encoder: TorchEncoder, obstacle: str) -> None:
    expected = encoder.encode_texts(BANK_TEXTS)
    if obstacle == "a full disk":
        with file_limit(100):
            assert_close(encoder.encode_prompts(BANK_TEXTS), expected)
        assert list(banks.iterdir()) == []
    elif obstacle == "a folder":
        encoder.encode_prompts(BANK_TEXTS)
        (file,) = banks.iterdir()
        file.unlink()
        file.mkdir()
        assert_close(encoder.encode_prompts(BANK_TEXTS), expected)
        assert list(banks.iterdir()) == [file]
    else:
        banks.write_bytes(b"") if obstacle == "a file" else banks.symlink_to("/proc/nowhere")
        assert_close(encoder.encode_prompts(BANK_TEXTS), expected)


def test_each_model_has_its_own_bank(banks: Path, encoder: TorchEncoder, tmp_path: Path) -> None:
    other = TorchEncoder(str(save_flair(random_flair(seed=1), tmp_path / "other.safetensors")), "cpu", torch.float32)
    for _ in range(2):
        for each in (encoder, other):
            assert_close(each.encode_prompts(BANK_TEXTS), each.encode_texts(BANK_TEXTS))
    assert len(list(banks.iterdir())) == 2
    assert (
        np.abs(encoder.encode_prompts(BANK_TEXTS)[0].vector - other.encode_prompts(BANK_TEXTS)[0].vector).max() > 0.01
    )
