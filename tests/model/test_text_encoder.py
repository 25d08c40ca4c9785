"""The text tower in numpy against the one in torch, and against its description in float64."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from flairsearch.core.errors import WeightsError
from flairsearch.model import checkpoints
from flairsearch.model.flair import FLAIR, load_model
from flairsearch.model.safetensors_file import SafetensorsFile
from flairsearch.model.text_encoder import TextEncoder, _gelu
from tests.support.random_flair import CONV, SMALL, SUM, oracle_text, random_flair, save_flair

TEXTS = [
    *(
        "a red ball",
        "!",
        "",
        "a white puppy with black ears sits on the grass, and looks at you",
        "x " * 200,
        "日本 café",
    ),
    *("it's", "end_of_text a", "\n", "A RED BALL", "antidisestablishmentarianism 🐶 " * 4, "0 ! 0"),
]
SIZES = {
    "small": SMALL,
    "conv": CONV,
    "sum": SUM,
    "one layer, one head": replace(SMALL, text_layers=1, text_heads=1),
    "many heads": replace(SMALL, text_heads=16, text_layers=3),
    "wide": replace(SMALL, text_width=96, text_heads=3, embed_dim=48, pool_heads=6),
    "narrow": replace(SMALL, text_width=8, text_heads=2, embed_dim=64, pool_heads=1),
    "short context": replace(SMALL, context_length=16),
    "shortest context": replace(SMALL, context_length=2),
    "long context": replace(SMALL, context_length=200),
}


def max_difference(found: np.ndarray, expected: torch.Tensor | np.ndarray) -> float:
    """The largest difference, relative to the largest value."""
    other = np.asarray(expected, np.float64)
    return float(np.abs(found - other).max() / np.abs(other).max())


@pytest.mark.parametrize("name", SIZES)
def test_equals_the_tower_in_torch(name: str, tmp_path: Path) -> None:
    model = random_flair(SIZES[name], seed=len(name))
    encoder = TextEncoder(save_flair(model, tmp_path / "x.safetensors"))
    queries = encoder.encode_texts(TEXTS)
    assert [query.text for query in queries] == TEXTS
    found = np.stack([query.vector for query in queries])
    assert (found.dtype, found.shape) == (np.float32, (len(TEXTS), model.config.embed_dim))
    tokens = model.tokenize(TEXTS)
    assert max_difference(found, oracle_text(model, tokens)) <= 1e-5
    with torch.inference_mode():
        assert max_difference(found, model.encode_text(tokens, full_context=True)) <= 1e-5
        u, c = model.folded_pool.fold(model.encode_text(tokens).numpy())
    assert max_difference(np.stack([query.u for query in queries]), u) <= 2e-5
    assert max_difference(np.stack([query.c for query in queries]), c) <= 2e-5
    assert encoder.pool_weights.global_share == (0.5 if name == "sum" else 0.0)
    assert model.folded_pool.weights.global_share == encoder.pool_weights.global_share


def test_equals_the_bundled_model() -> None:
    encoder, model = TextEncoder(checkpoints.bundled_file()), load_model(checkpoints.BUNDLED)
    texts = [text for text in TEXTS if text]
    with torch.inference_mode():
        expected = model.encode_text(model.tokenize(texts))
    found = np.stack([query.vector for query in encoder.encode_texts(texts)])
    assert max_difference(found, expected) <= 2e-5
    cosines = F.cosine_similarity(torch.from_numpy(found).double(), expected.double())
    assert float(cosines.min()) > 1 - 1e-9
    theirs = model.folded_pool.weights
    assert encoder.weights_hash == model.weights_hash
    for name in ("value", "value_bias", "out", "out_bias", "logit_scale", "logit_bias", "global_share"):
        np.testing.assert_array_equal(getattr(encoder.pool_weights, name), getattr(theirs, name))
    for text in ("a zebra on a unicycle", "a dog", "xylophone, Zebra"):
        assert encoder.unseen_words(text) == model.unseen_words(text)


@pytest.mark.parametrize("text", ["<end_of_text> a", "a &lt;end_of_text&gt; dog", "a<start_of_text>b <END_OF_TEXT>"])
def test_a_text_ends_at_its_first_end_token(text: str, encoder: TextEncoder) -> None:
    """The tower in torch reads the first position of the largest id, too."""
    model = random_flair()
    tokens = model.tokenize([text, "a dog"])
    found = np.stack([query.vector for query in encoder.encode_texts([text, "a dog"])])
    assert max_difference(found, oracle_text(model, tokens)) <= 1e-5


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_types(kind: torch.dtype, tmp_path: Path) -> None:
    """The result equals that of torch with the same weights converted to float32."""
    model = random_flair()
    rounded = {name: tensor.to(kind) for name, tensor in model.flair_state().items()}
    checkpoints.save(rounded, model.config.to_json(), "x", tmp_path / "x.safetensors")
    model.load_flair_state({name: tensor.float() for name, tensor in rounded.items()})
    found = np.stack([query.vector for query in TextEncoder(tmp_path / "x.safetensors").encode_texts(TEXTS)])
    assert max_difference(found, oracle_text(model, model.tokenize(TEXTS))) <= 1e-5


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    return TextEncoder(save_flair(random_flair(), tmp_path_factory.mktemp("model") / "x.safetensors"))


def test_a_text_does_not_depend_on_its_neighbours(encoder: TextEncoder) -> None:
    """Batches hold longer texts, shorter texts and repeated texts, in any order."""
    alone = [encoder.encode_texts([text])[0] for text in TEXTS]
    rng = np.random.default_rng(0)
    for _ in range(10):
        order = rng.integers(0, len(TEXTS), rng.integers(1, 9)).tolist()
        for query, i in zip(encoder.encode_texts([TEXTS[i] for i in order]), order, strict=True):
            assert query.text == TEXTS[i]
            for part in ("vector", "u", "c"):
                found, expected = getattr(query, part), getattr(alone[i], part)
                np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert encoder.encode_texts([]) == []


@pytest.mark.filterwarnings("error")
def test_gelu_equals_torchs_exact_one() -> None:
    x = np.concatenate([np.linspace(-12, 12, 400_001), [0, -0.0, 1e-30, -1e-30, 50, -50, 1e4, -1e4]]).astype(np.float32)
    expected = F.gelu(torch.from_numpy(x).double()).numpy()
    found = _gelu(x)
    assert (found.dtype, found.shape) == (np.float32, x.shape)
    inside = np.abs(x) <= 12
    assert np.abs(found - expected)[inside].max() <= 1e-6
    np.testing.assert_allclose(found[x > 6], x[x > 6], rtol=1e-6)
    assert (np.abs(found[x < -6]) < 1e-6).all()
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(_gelu(x[:12].reshape(2, 3, 2)).ravel(), found[:12])


@pytest.mark.filterwarnings("error")
def test_large_weights_make_no_warnings(tmp_path: Path) -> None:
    """Attention and GELU must not overflow, though some numbers exceed the range of exp."""
    model = random_flair()
    for name, parameter in model.named_parameters():
        if "resblocks" in name and name.startswith("towers.transformer"):
            parameter *= 30
    path = save_flair(model, tmp_path / "x.safetensors")
    found = np.stack([query.vector for query in TextEncoder(path).encode_texts(TEXTS)])
    assert np.isfinite(found).all()
    assert max_difference(found, oracle_text(model, model.tokenize(TEXTS))) <= 1e-3


def test_seen_tokens_are_read_from_the_file(tmp_path: Path) -> None:
    model: FLAIR = random_flair()
    seen = set(model.tokenize(["a dog on the grass"])[0].tolist())
    encoder = TextEncoder(save_flair(model, tmp_path / "x.safetensors", seen))
    assert encoder.unseen_words("the Zebra on a dog, a zebra") == ["zebra"]
    plain = TextEncoder(save_flair(model, tmp_path / "y.safetensors"))
    assert plain.unseen_words("the zebra") == []


# -- Invalid files


def damaged(tmp_path: Path, change: str) -> Path:
    """A weights file with one fault."""
    path = save_flair(random_flair(), tmp_path / "x.safetensors")
    state, (config, hashed) = dict(load_file(path)), checkpoints.describe(path)
    metadata, sizes = {"config": config, "name": "x", "hash": hashed}, json.loads(config)
    deep = "transformer.resblocks.1.mlp.c_fc"
    if change == "missing":
        del state[f"{deep}.weight"]
    elif change == "missing pool":
        del state["visual_proj.ln_k.bias"]
    elif change == "missing image tower":
        del state["visual.conv1.weight"]
    elif change == "extra":
        state["more"] = torch.zeros(3)
    elif change == "turned":
        state[f"{deep}.weight"] = state[f"{deep}.weight"].T.contiguous()
    elif change == "short":
        state["positional_embedding"] = state["positional_embedding"][:-1].clone()
    elif change == "flat":
        state["logit_scale"] = state["logit_scale"].reshape(1)
    elif change == "whole numbers":
        state[f"{deep}.bias"] = state[f"{deep}.bias"].long()
    elif change == "layers":
        metadata["config"] = json.dumps(sizes | {"text_layers": 3})
    elif change == "context":
        metadata["config"] = json.dumps(sizes | {"context_length": 76})
    elif change == "not ours":
        metadata = {"name": "x"}
    elif change == "no config":
        metadata["config"] = "{}"
    elif change == "config is a list":
        metadata["config"] = "[]"
    elif change == "huge config":
        metadata["config"] = json.dumps(sizes | {"text_width": 10**12})
    elif change == "seen is damaged":
        metadata["seen"] = "[1, 2"
    save_file(state, path, metadata)
    if change == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    return path


CHANGES = ["missing", "missing pool", "missing image tower", "extra", "turned", "short", "flat", "whole numbers"]
CHANGES += ["layers", "context", "not ours", "no config", "config is a list", "huge config", "seen is damaged", "cut"]


@pytest.mark.parametrize("change", CHANGES)
def test_an_invalid_file_raises_one_line(change: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        TextEncoder(damaged(tmp_path, change))
    assert len(str(caught.value).splitlines()) == 1
    assert " - " in str(caught.value)


@pytest.mark.parametrize("heads", ["text_heads", "pool_heads"])
@pytest.mark.parametrize("number", [3, 64])
def test_heads_that_do_not_divide_the_width(heads: str, number: int, tmp_path: Path) -> None:
    """No tensor's shape depends on the heads, so only the configuration is wrong."""
    path = save_flair(random_flair(), tmp_path / "x.safetensors")
    config, hashed = checkpoints.describe(path)
    wrong = json.dumps(json.loads(config) | {heads: number})
    save_file(load_file(path), path, {"config": wrong, "name": "x", "hash": hashed})
    with pytest.raises(WeightsError):
        TextEncoder(path).encode_texts(["a dog"])


def test_a_vocabulary_smaller_than_the_tokenizers(tmp_path: Path) -> None:
    """Both the embedding and the configuration have fewer rows than there are token ids."""
    path = save_flair(random_flair(replace(SMALL, vocab_size=1000)), tmp_path / "x.safetensors")
    with pytest.raises(WeightsError):
        TextEncoder(path).encode_texts(["a dog"])


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="check the path"):
        TextEncoder(tmp_path / "nothing.safetensors")


# -- What is read and imported


def test_unneeded_tensors_are_not_read(encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    get = SafetensorsFile.__getitem__
    monkeypatch.setattr(SafetensorsFile, "__getitem__", lambda self, name: read.append(name) or get(self, name))
    encoder.encode_texts(["a dog"])
    assert "token_embedding.weight" not in read
    assert not any(name.startswith("visual.") for name in read)


def test_a_fresh_process_loads_nothing_heavy() -> None:
    code = (
        "import sys; from flairsearch.model import checkpoints\n"
        "from flairsearch.model.text_encoder import TextEncoder\n"
        "encoder = TextEncoder(checkpoints.bundled_file())\n"
        "encoder.encode_texts(['a red ball', 'a dog']); encoder.pool_weights; encoder.unseen_words('a zebra')\n"
        "heavy = {'torch', 'open_clip', 'numba', 'faiss', 'PIL', 'huggingface_hub', 'ftfy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
