"""What is kept of a picture and of a text, against the model itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from random_flair import SMALL, oracle_image, oracle_text, random_flair, random_pictures, save_flair
from torch.nn import functional as F

from flairsearch import weights
from flairsearch.bank import phrases
from flairsearch.encode import Encoder, choose_device, choose_precision
from flairsearch.errors import UsageError
from flairsearch.model import LAYER_NORM_EPS
from flairsearch.records import Encoded, Frame, Picture

torch.set_num_threads(2)
COUNT, SIZE = 9, SMALL.image_size


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In the cache, so that nothing is imported again."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLAIRSEARCH_CACHE", str(folder))
        return weights.import_file(save_flair(random_flair(), folder / "random.safetensors")).path


@pytest.fixture(autouse=True)
def cache(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAIRSEARCH_CACHE", str(path.parent.parent))


@pytest.fixture
def encoder(path: Path) -> Encoder:
    return Encoder(str(path), "cpu", torch.float32)


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    frame = Frame(SIZE, SIZE, 0, 0, SIZE, SIZE)
    return [Picture(pixels, frame) for pixels in random_pictures(COUNT, SIZE)]


def towers(pictures: list[Picture]) -> tuple[torch.Tensor, torch.Tensor]:
    """What the model says of the pictures, in float64, through its own preprocessing."""
    from PIL import Image

    model = random_flair()
    return oracle_image(model, torch.stack([model.preprocess(Image.fromarray(p.pixels)) for p in pictures]))


def test_what_is_kept_gives_the_local_tokens_back(encoder: Encoder, pictures: list[Picture]) -> None:
    """s (x + r) = L, x = LayerNorm of L without gain."""
    encoded = encoder.encode_pictures(pictures)
    pooled, local = towers(pictures)
    x, r, s = (torch.from_numpy(part).double() for part in (encoded.tokens, encoded.shift, encoded.scale))
    dim = local.shape[-1]
    assert (x - F.layer_norm(local, (dim,), eps=LAYER_NORM_EPS)).abs().max() <= 2e-3  # half a step of fp16 at 4
    again = s[..., None] * (x + r[..., None])
    assert (again - local).abs().max() <= 2e-3 * local.abs().max()
    assert np.abs(encoded.pooled - F.normalize(pooled, dim=-1).numpy()).max() <= 1e-3
    assert np.abs(np.linalg.norm(encoded.pooled.astype(np.float32), axis=1) - 1).max() <= 1e-3
    assert {part.dtype for part in vars(encoded).values()} == {np.dtype(np.float16)}


def columns(encoded: Encoded) -> list[np.ndarray]:
    return [part.astype(np.float32) for part in (encoded.pooled, encoded.tokens, encoded.shift, encoded.scale)]


def test_a_picture_does_not_depend_on_its_neighbours(encoder: Encoder, pictures: list[Picture]) -> None:
    together = columns(encoder.encode_pictures(pictures))
    for i in (0, COUNT - 1):
        alone = columns(encoder.encode_pictures([pictures[i]]))
        for whole, one in zip(together, alone, strict=True):
            assert np.abs(whole[i] - one[0]).max() <= 4e-3  # one step of fp16
    assert np.abs(together[1][0] - together[1][1]).max() > 0.1  # they are different pictures


def test_fast_precision_is_close(path: Path, encoder: Encoder, pictures: list[Picture]) -> None:
    fast = Encoder(str(path), "cpu", torch.bfloat16)
    kept = (columns(which.encode_pictures(pictures))[:2] for which in (encoder, fast))
    for exact, near in zip(*kept, strict=True):
        cosine = (exact * near).sum(-1) / np.linalg.norm(exact, axis=-1) / np.linalg.norm(near, axis=-1)
        assert cosine.min() >= 0.999
        assert cosine.min() < 1  # it is another precision
    a, b = encoder.encode_texts(["a dog"])[0], fast.encode_texts(["a dog"])[0]
    assert np.array_equal(a.vector, b.vector)  # texts stay in float32


def test_queries_are_the_models_text_vectors(encoder: Encoder) -> None:
    texts = ["a red ball", "two dogs run over the grass != sand", "x " * 100]
    model = random_flair()
    queries = encoder.encode_texts(texts)
    expected = oracle_text(model, model.tokenize(texts)).numpy()
    assert [query.text for query in queries] == texts
    assert np.abs(np.stack([query.vector for query in queries]) - expected).max() <= 1e-5
    heads, dim = SMALL.pool_heads, SMALL.embed_dim
    assert {(q.u.shape, q.c.shape, q.u.dtype) for q in queries} == {((heads, dim), (heads,), np.dtype(np.float32))}


def test_model_is_named(encoder: Encoder, path: Path) -> None:
    assert encoder.name == "random"
    assert encoder.weights_hash == weights.describe(path)[1]
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
def test_gpu_equals_cpu(path: Path, encoder: Encoder, pictures: list[Picture]) -> None:
    gpu = Encoder(str(path), "cuda", torch.float32)
    for a, b in zip(columns(gpu.encode_pictures(pictures)), columns(encoder.encode_pictures(pictures)), strict=True):
        assert np.abs(a - b).max() <= 4e-3


def test_token_metric_counts_an_error_as_logits_and_scores_do(encoder: Encoder) -> None:
    """Half the model's own; half mean squares over the bank's texts, written out text by text and head by head."""
    weights, model = encoder.pool_weights, encoder._model.token_metric().astype(np.float64)
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
