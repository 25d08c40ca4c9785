"""FLAIR against an implementation from its description, stock OpenCLIP, and torch's own attention."""

from __future__ import annotations

import open_clip
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from flairsearch.core.errors import WeightsError
from flairsearch.model.flair import (
    FLAIR,
    IMAGE_MEAN,
    IMAGE_STD,
    TextConditionedPool,
    run_image_tower,
)
from tests.support.random_flair import (
    SMALL,
    big_flair,
    oracle_image,
    oracle_pool,
    oracle_text,
    pool_flair,
    random_flair,
    random_pictures,
)

torch.set_num_threads(2)
TEXTS = ["a red ball", "a white puppy with black ears sits on the grass", "!", "x " * 200]


@pytest.fixture(scope="module")
def model() -> FLAIR:
    return random_flair()


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.from_numpy(random_pictures(3, SMALL.image_size)).permute(0, 3, 1, 2) / 100 - 1


def max_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.detach().double() - b.detach().double()).abs().max())


# -- Towers and scores


def test_image_tower_equals_the_description(model: FLAIR, image: torch.Tensor) -> None:
    pooled, local = model.encode_image(image)
    expected_pooled, expected_local = oracle_image(model, image)
    assert max_difference(pooled, expected_pooled) <= 1e-5
    assert max_difference(local, expected_local) <= 1e-5


def test_written_out_image_tower_equals_openclips(model: FLAIR, image: torch.Tensor) -> None:
    for found, expected in zip(run_image_tower(model.towers.visual, image), model.encode_image(image), strict=True):
        assert max_difference(found, expected) <= 1e-5


@pytest.mark.parametrize("full_context", [True, False])
def test_text_tower_equals_the_description(model: FLAIR, full_context: bool) -> None:
    tokens = model.tokenize(TEXTS)
    assert max_difference(model.encode_text(tokens, full_context), oracle_text(model, tokens)) <= 1e-5


def test_scores_equal_the_description(model: FLAIR, image: torch.Tensor) -> None:
    tokens = model.tokenize(TEXTS)
    logits, transposed = model.get_logits(image, tokens)
    clip, clip_transposed = model.get_logits_as_clip(image, tokens)
    pooled, local = oracle_image(model, image)
    scale, bias = model.towers.logit_scale.double().exp(), model.towers.logit_bias.double()
    texts = oracle_text(model, tokens)
    expected = torch.stack([torch.from_numpy(oracle_pool(model, t, local)[0]) for t in texts], 1) * scale + bias
    assert max_difference(logits, expected) <= 1e-4  # Logits are cosines scaled by about 14.
    assert max_difference(clip, scale * F.normalize(pooled, dim=-1) @ F.normalize(texts, dim=-1).T) <= 1e-4
    assert torch.equal(transposed, logits.T)
    assert torch.equal(clip_transposed, clip.T)
    assert logits.shape == (3, len(TEXTS))


@pytest.mark.slow
def test_clip_logits_equal_stock_openclip() -> None:
    """With renamed weights, the results are bit for bit the same."""
    model = big_flair()
    renamed = {"image_post.proj": "visual.proj", "text_post.proj": "text_projection"}
    state = {renamed.get(name, name): tensor for name, tensor in model.flair_state().items()}
    # torch uses another attention kernel for weights with gradients, whose results differ by 4e-6.
    stock = open_clip.create_model("ViT-B-16").eval().requires_grad_(False)
    stock.load_state_dict(
        {k: v for k, v in state.items() if not k.startswith("visual_proj.") and k != "logit_bias"}, strict=True
    )
    picture = torch.from_numpy(random_pictures(1, 224)).permute(0, 3, 1, 2) / 100 - 1
    tokens = model.tokenize(TEXTS[:3])
    expected, _ = stock.get_logits(picture, tokens)
    assert torch.equal(model.get_logits_as_clip(picture, tokens, full_context=True)[0], expected)
    assert max_difference(model.get_logits_as_clip(picture, tokens)[0], expected) <= 1e-5


# -- The pool


def test_pool_equals_torch_attention_with_a_zero_key() -> None:
    torch.manual_seed(1)
    dim, heads = 64, 8
    pool = TextConditionedPool(dim, heads).double().requires_grad_(False)
    for parameter in pool.parameters():
        parameter += 0.3 * torch.randn_like(parameter)
    reference = nn.MultiheadAttention(dim, heads, add_zero_attn=True, batch_first=True).double()
    reference.load_state_dict(pool.attn.state_dict())
    text, local = torch.randn(5, dim, dtype=torch.float64), torch.randn(3, 17, dim, dtype=torch.float64) * 2 + 1
    pooled, attention = pool(text, local)
    for i in range(len(local)):
        query = pool.ln_q(text)[None]
        key, value = pool.ln_k(local[i])[None], pool.ln_v(local[i])[None]
        expected, share = reference(query, key, value, average_attn_weights=True)
        assert share.shape[-1] == 18  # The zero key is last.
        assert max_difference(pooled[i], expected[0]) <= 1e-10
        assert max_difference(attention[i], share[0, :, :-1]) <= 1e-10


def test_zero_key_is_added_after_the_projection() -> None:
    """If all keys are zero, every patch has the zero key's logit, and so an attention of 1 / (P + 1)."""
    pool = TextConditionedPool(16, 2).requires_grad_(False)
    pool.attn.in_proj_weight[16:32] = 0
    _, attention = pool(torch.randn(1, 16), torch.randn(1, 9, 16))
    assert max_difference(attention, torch.full((1, 1, 9), 0.1)) <= 1e-6
    pool.attn.in_proj_bias[:32] = 3.0  # A bias changes the logits of patches, but not that of the zero key.
    _, attention = pool(torch.randn(1, 16), torch.randn(1, 9, 16))
    assert not torch.allclose(attention, torch.full((1, 1, 9), 0.1), atol=1e-3)


# -- The metric of token errors


@pytest.mark.parametrize(("dim", "heads"), [(32, 4), (16, 1), (24, 3)])
def test_token_metric_is_the_mean_square_over_all_texts(dim: int, heads: int) -> None:
    """The texts' ln_q are plus and minus every axis: their mean is 0 and their covariance the identity."""
    model = pool_flair(dim, heads)
    state = {k.removeprefix("visual_proj."): v.double() for k, v in model.flair_state().items() if "visual_proj" in k}
    weight_q, weight_k, weight_v = state["attn.in_proj_weight"].chunk(3)
    bias_q = state["attn.in_proj_bias"].chunk(3)[0]
    size = dim // heads
    errors = torch.randn(7, dim, dtype=torch.float64)
    key_errors = (errors * state["ln_k.weight"]) @ weight_k.T
    value_errors = (errors * state["ln_v.weight"]) @ weight_v.T
    keys, values = torch.zeros(7).double(), torch.zeros(7).double()
    trace_of_keys = trace_of_values = 0.0  # The traces are sums over errors along every axis.
    for h in range(heads):
        columns = slice(h * size, (h + 1) * size)
        out = state["attn.out_proj.weight"][:, columns]
        values += (value_errors[:, columns] @ out.T).square().sum(1)
        trace_of_values += float(((torch.diag(state["ln_v.weight"]) @ weight_v.T)[:, columns] @ out.T).square().sum())
        for axis in range(dim):
            for sign in (1, -1):
                unit = torch.zeros(dim).double()
                unit[axis] = sign * dim**0.5
                q = weight_q[columns] @ (unit * state["ln_q.weight"] + state["ln_q.bias"]) + bias_q[columns]
                keys += (key_errors[:, columns] @ q).square() / (2 * dim)
                products = (torch.diag(state["ln_k.weight"]) @ weight_k.T)[:, columns] @ q
                trace_of_keys += float(products.square().sum()) / (2 * dim)
    metric = torch.from_numpy(model.folded_pool.token_metric()).double()
    expected = keys / trace_of_keys + values / trace_of_values
    found = torch.einsum("nd,de,ne->n", errors, metric, errors)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0.0)
    assert max_difference(metric, metric.T) <= 1e-6
    assert float(metric.trace()) == pytest.approx(2, abs=1e-4)
    assert float(torch.linalg.eigvalsh(metric).min()) > -1e-6


def test_an_error_of_low_cost_changes_the_pool_little() -> None:
    """Errors of one length along the metric's cheapest and costliest axis are fed to the pool itself."""
    model = pool_flair(32, 4)
    metric = torch.from_numpy(model.folded_pool.token_metric())
    axes = torch.linalg.eigh(metric).eigenvectors
    texts, local = torch.randn(20, 32), torch.randn(6, 9, 32)
    x = F.layer_norm(local, (32,))
    before = model.visual_proj(texts, x)[0]
    changes = [(model.visual_proj(texts, x + 0.3 * axes[:, i])[0] - before).square().mean() for i in (0, -1)]
    assert changes[0] < 0.3 * changes[1]


# -- Inputs


def test_preprocess_is_the_centre_crop(model: FLAIR) -> None:
    size = model.config.image_size
    wide = Image.fromarray(random_pictures(1, 96)[0]).resize((160, 96))
    crop = wide.resize((size * 160 // 96, size), Image.Resampling.BICUBIC)
    left = round((crop.width - size) / 2)
    pixels = torch.tensor(list(crop.crop((left, 0, left + size, size)).tobytes())).reshape(size, size, 3) / 255
    expected = ((pixels - torch.tensor(IMAGE_MEAN)) / torch.tensor(IMAGE_STD)).permute(2, 0, 1)
    assert model.preprocess(wide).shape == (3, size, size)
    assert max_difference(model.preprocess(wide), expected) <= 1e-6


def test_preprocess_takes_any_mode(model: FLAIR) -> None:
    grey = Image.new("L", (60, 80), 100)
    assert torch.equal(model.preprocess(grey), model.preprocess(grey.convert("RGB")))


def test_tokenizer(model: FLAIR) -> None:
    start, end = 49406, 49407
    tokens = model.tokenize(["A  red\nball &amp; more", "a red ball & more", "!", "", "x " * 200])
    assert tokens.shape == (5, 77)
    assert torch.equal(tokens[0], tokens[1])  # Case, spaces and HTML escapes do not matter.
    assert tokens[2, :3].tolist() == [start, 256, end]
    assert tokens[3].tolist() == [start, end] + [0] * 75
    assert tokens[4, 0] == start
    assert tokens[4, -1] == end
    assert (tokens[4, 1:-1] != end).all()


def test_text_after_id_zero_counts(model: FLAIR) -> None:
    """Id 0 is padding and also a part of "!=", so a length computed by `!= 0` would cut the text there."""
    tokens = model.tokenize(["a dog != a red ball", "a dog"])
    assert (tokens[0, :8] == 0).any()
    assert max_difference(model.encode_text(tokens[:1]), oracle_text(model, tokens[:1])) <= 1e-5
    assert max_difference(model.encode_text(tokens[:1]), model.encode_text(tokens[1:])) > 1e-3


def test_a_text_does_not_depend_on_its_neighbours(model: FLAIR) -> None:
    tokens = model.tokenize(TEXTS)
    alone = torch.cat([model.encode_text(row[None]) for row in tokens])
    assert max_difference(model.encode_text(tokens), alone) <= 1e-5


# -- Weights


def test_state_is_restored(model: FLAIR, image: torch.Tensor) -> None:
    other = random_flair(seed=7)
    tokens = model.tokenize(TEXTS)
    assert max_difference(other.get_logits(image, tokens)[0], model.get_logits(image, tokens)[0]) > 1e-2
    other.load_flair_state(model.flair_state())
    assert torch.equal(other.get_logits(image, tokens)[0], model.get_logits(image, tokens)[0])


def test_missing_logit_bias_counts_as_zero(model: FLAIR) -> None:
    other = random_flair(seed=7)
    other.load_flair_state({k: v for k, v in model.flair_state().items() if k != "logit_bias"})
    assert float(other.towers.logit_bias) == 0


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_wrong_state_is_refused(model: FLAIR, change: str) -> None:
    state = dict(model.flair_state())
    if change == "missing":
        del state["visual_proj.ln_q.weight"]
    elif change == "extra":
        state["visual_proj.ln_x.weight"] = torch.zeros(1)
    else:
        state["image_post.proj"] = state["image_post.proj"].T
    with pytest.raises(WeightsError):
        random_flair(seed=3).load_flair_state(state)
