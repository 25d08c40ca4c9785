"""FLAIR against arithmetic written from its description, stock OpenCLIP, and torch's own attention."""

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


def largest(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.detach().double() - b.detach().double()).abs().max())


# -- the towers and the scores


def test_image_tower_equals_the_description(model: FLAIR, image: torch.Tensor) -> None:
    pooled, local = model.encode_image(image)
    expected_pooled, expected_local = oracle_image(model, image)
    assert largest(pooled, expected_pooled) <= 1e-5
    assert largest(local, expected_local) <= 1e-5


def test_written_out_image_tower_equals_openclips(model: FLAIR, image: torch.Tensor) -> None:
    for found, expected in zip(run_image_tower(model.towers.visual, image), model.encode_image(image), strict=True):
        assert largest(found, expected) <= 1e-5


@pytest.mark.parametrize("full_context", [True, False])
def test_text_tower_equals_the_description(model: FLAIR, full_context: bool) -> None:
    tokens = model.tokenize(TEXTS)
    assert largest(model.encode_text(tokens, full_context), oracle_text(model, tokens)) <= 1e-5


def test_scores_equal_the_description(model: FLAIR, image: torch.Tensor) -> None:
    tokens = model.tokenize(TEXTS)
    logits, transposed = model.get_logits(image, tokens)
    clip, clip_transposed = model.get_logits_as_clip(image, tokens)
    pooled, local = oracle_image(model, image)
    scale, bias = model.towers.logit_scale.double().exp(), model.towers.logit_bias.double()
    texts = oracle_text(model, tokens)
    expected = torch.stack([torch.from_numpy(oracle_pool(model, t, local)[0]) for t in texts], 1) * scale + bias
    assert largest(logits, expected) <= 1e-4  # logits, scaled by about 14
    assert largest(clip, scale * F.normalize(pooled, dim=-1) @ F.normalize(texts, dim=-1).T) <= 1e-4
    assert torch.equal(transposed, logits.T)
    assert torch.equal(clip_transposed, clip.T)
    assert logits.shape == (3, len(TEXTS))


@pytest.mark.slow
def test_clips_way_equals_stock_openclip() -> None:
    """The published identity: renamed weights, no difference at all."""
    model = big_flair()
    renamed = {"image_post.proj": "visual.proj", "text_post.proj": "text_projection"}
    state = {renamed.get(name, name): tensor for name, tensor in model.flair_state().items()}
    # Gradients off in both: torch chooses another attention kernel for weights that want them, 4e-6 apart.
    stock = open_clip.create_model("ViT-B-16").eval().requires_grad_(False)
    stock.load_state_dict(
        {k: v for k, v in state.items() if not k.startswith("visual_proj.") and k != "logit_bias"}, strict=True
    )
    picture = torch.from_numpy(random_pictures(1, 224)).permute(0, 3, 1, 2) / 100 - 1
    tokens = model.tokenize(TEXTS[:3])
    expected, _ = stock.get_logits(picture, tokens)
    assert torch.equal(model.get_logits_as_clip(picture, tokens, full_context=True)[0], expected)
    assert largest(model.get_logits_as_clip(picture, tokens)[0], expected) <= 1e-5


# -- the pool


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
        assert share.shape[-1] == 18  # the zero key is last
        assert largest(pooled[i], expected[0]) <= 1e-10
        assert largest(attention[i], share[0, :, :-1]) <= 1e-10


def test_zero_key_is_added_after_the_projection() -> None:
    """With no key content at all, every patch has the logit of the zero key: a share of 1 / (P + 1)."""
    pool = TextConditionedPool(16, 2).requires_grad_(False)
    pool.attn.in_proj_weight[16:32] = 0
    _, attention = pool(torch.randn(1, 16), torch.randn(1, 9, 16))
    assert largest(attention, torch.full((1, 1, 9), 0.1)) <= 1e-6
    pool.attn.in_proj_bias[:32] = 3.0  # a bias moves the patches' logits, not the zero key's
    _, attention = pool(torch.randn(1, 16), torch.randn(1, 9, 16))
    assert not torch.allclose(attention, torch.full((1, 1, 9), 0.1), atol=1e-3)


# -- what an error of a token costs


@pytest.mark.parametrize(("dim", "heads"), [(32, 4), (16, 1), (24, 3)])
def test_token_metric_is_the_mean_square_over_all_texts(dim: int, heads: int) -> None:
    """Texts whose ln_q lies on every axis, both ways: their mean is 0, their covariance the identity, exactly."""
    model = pool_flair(dim, heads)
    state = {k.removeprefix("visual_proj."): v.double() for k, v in model.flair_state().items() if "visual_proj" in k}
    weight_q, weight_k, weight_v = state["attn.in_proj_weight"].chunk(3)
    bias_q = state["attn.in_proj_bias"].chunk(3)[0]
    size = dim // heads
    errors = torch.randn(7, dim, dtype=torch.float64)
    key_errors = (errors * state["ln_k.weight"]) @ weight_k.T
    value_errors = (errors * state["ln_v.weight"]) @ weight_v.T
    keys, values = torch.zeros(7).double(), torch.zeros(7).double()
    all_keys = all_values = 0.0  # the same, of errors along every axis: the traces
    for h in range(heads):
        here = slice(h * size, (h + 1) * size)
        out = state["attn.out_proj.weight"][:, here]
        values += (value_errors[:, here] @ out.T).square().sum(1)
        all_values += float(((torch.diag(state["ln_v.weight"]) @ weight_v.T)[:, here] @ out.T).square().sum())
        for axis in range(dim):
            for sign in (1, -1):
                unit = torch.zeros(dim).double()
                unit[axis] = sign * dim**0.5
                q = weight_q[here] @ (unit * state["ln_q.weight"] + state["ln_q.bias"]) + bias_q[here]
                keys += (key_errors[:, here] @ q).square() / (2 * dim)
                each = (torch.diag(state["ln_k.weight"]) @ weight_k.T)[:, here] @ q
                all_keys += float(each.square().sum()) / (2 * dim)
    metric = torch.from_numpy(model.folded_pool.token_metric()).double()
    expected = keys / all_keys + values / all_values
    found = torch.einsum("nd,de,ne->n", errors, metric, errors)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0.0)
    assert largest(metric, metric.T) <= 1e-6
    assert float(metric.trace()) == pytest.approx(2, abs=1e-4)
    assert float(torch.linalg.eigvalsh(metric).min()) > -1e-6


def test_an_error_the_metric_thinks_little_of_moves_scores_little() -> None:
    """Of errors of one length, those along the metric's last axis and its first: the pool is asked itself."""
    model = pool_flair(32, 4)
    metric = torch.from_numpy(model.folded_pool.token_metric())
    axes = torch.linalg.eigh(metric).eigenvectors
    texts, local = torch.randn(20, 32), torch.randn(6, 9, 32)
    x = F.layer_norm(local, (32,))
    before = model.visual_proj(texts, x)[0]
    moved = [(model.visual_proj(texts, x + 0.3 * axes[:, i])[0] - before).square().mean() for i in (0, -1)]
    assert moved[0] < 0.3 * moved[1]


# -- inputs


def test_preprocess_is_the_centre_crop(model: FLAIR) -> None:
    size = model.config.image_size
    wide = Image.fromarray(random_pictures(1, 96)[0]).resize((160, 96))
    crop = wide.resize((size * 160 // 96, size), Image.Resampling.BICUBIC)
    left = round((crop.width - size) / 2)
    pixels = torch.tensor(list(crop.crop((left, 0, left + size, size)).tobytes())).reshape(size, size, 3) / 255
    expected = ((pixels - torch.tensor(IMAGE_MEAN)) / torch.tensor(IMAGE_STD)).permute(2, 0, 1)
    assert model.preprocess(wide).shape == (3, size, size)
    assert largest(model.preprocess(wide), expected) <= 1e-6


def test_preprocess_takes_any_mode(model: FLAIR) -> None:
    grey = Image.new("L", (60, 80), 100)
    assert torch.equal(model.preprocess(grey), model.preprocess(grey.convert("RGB")))


def test_tokenizer(model: FLAIR) -> None:
    start, end = 49406, 49407
    tokens = model.tokenize(["A  red\nball &amp; more", "a red ball & more", "!", "", "x " * 200])
    assert tokens.shape == (5, 77)
    assert torch.equal(tokens[0], tokens[1])  # case, spaces and HTML make no difference
    assert tokens[2, :3].tolist() == [start, 256, end]
    assert tokens[3].tolist() == [start, end] + [0] * 75
    assert tokens[4, 0] == start
    assert tokens[4, -1] == end
    assert (tokens[4, 1:-1] != end).all()


def test_text_after_id_zero_counts(model: FLAIR) -> None:
    """Id 0 is padding and also a part of "!=": a length found by `!= 0` would cut the text there."""
    tokens = model.tokenize(["a dog != a red ball", "a dog"])
    assert (tokens[0, :8] == 0).any()
    assert largest(model.encode_text(tokens[:1]), oracle_text(model, tokens[:1])) <= 1e-5
    assert largest(model.encode_text(tokens[:1]), model.encode_text(tokens[1:])) > 1e-3


def test_a_text_does_not_depend_on_its_neighbours(model: FLAIR) -> None:
    tokens = model.tokenize(TEXTS)
    alone = torch.cat([model.encode_text(row[None]) for row in tokens])
    assert largest(model.encode_text(tokens), alone) <= 1e-5


# -- weights


def test_state_goes_round(model: FLAIR, image: torch.Tensor) -> None:
    other = random_flair(seed=7)
    tokens = model.tokenize(TEXTS)
    assert largest(other.get_logits(image, tokens)[0], model.get_logits(image, tokens)[0]) > 1e-2
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
