"""The convolutional image tower against arithmetic written from its description, and where its windows lie."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from random_flair import CONV, oracle_conv_patches, oracle_conv_tokens, random_flair, random_pictures, save_flair
from torch import nn
from torch.nn import functional as F

from flairsearch.convtower import ConvTower, Stage, build_trunk
from flairsearch.encode import Encoder
from flairsearch.model import FLAIR, LAYER_NORM_EPS, ModelConfig, load_model, run_image_tower
from flairsearch.records import Frame, Picture

torch.set_num_threads(1)
SIZE = CONV.image_size
TINY = ModelConfig.from_json((Path(__file__).parents[1] / "training" / "flair-tiny.json").read_text())


@pytest.fixture(scope="module")
def model() -> FLAIR:
    return random_flair(CONV)


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    """Values large enough for some activations to be cut at 6."""
    return torch.from_numpy(random_pictures(2, SIZE)).permute(0, 3, 1, 2) / 10 - 12


def largest(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return float((a.detach().double() - b.detach().double()).abs().max())


# -- values


@pytest.mark.parametrize("late", [False, True])
def test_trunk_equals_the_description(model: FLAIR, image: torch.Tensor, late: bool) -> None:
    """All in float64, so that nothing but another formula can differ; once with blocks after the last halving."""
    if late:
        stages = (*CONV.conv_stages[:2], (3, 4, 2, 2), (2, 8, 1, 2), (2, 6, 2, 1))
        model = random_flair(replace(CONV, conv_stages=stages))
    double = random_flair(model.config).double()
    expected = oracle_conv_patches(model, image)
    found = double.towers.visual.trunk(image.double()).flatten(2).transpose(1, 2)
    assert largest(found, expected) <= 1e-10
    assert expected.std() > 0.01
    cut = double.towers.visual.trunk[0](image.double())
    assert (cut == 6).any()
    assert (cut == 0).any()


def test_towers_tokens_equal_the_description(model: FLAIR, image: torch.Tensor) -> None:
    expected = oracle_conv_tokens(model, oracle_conv_patches(model, image))
    for found, right in zip(model.encode_image(image), expected, strict=True):
        assert largest(found, right) <= 1e-4
    for a, b in zip(model.encode_image(image), run_image_tower(model.towers.visual, image), strict=True):
        assert torch.equal(a, b)


def test_class_token_is_the_mean_and_a_residual_of_it(model: FLAIR) -> None:
    torch.manual_seed(0)
    patches = 3 * torch.randn(4, 9, CONV.vision_width)
    tower = model.towers.visual
    pooled, after = tower.tokens(patches)
    expected, local = oracle_conv_tokens(model, patches)
    assert largest(pooled, expected) <= 1e-4
    assert largest(after @ tower.proj, local) <= 1e-4
    shuffled, _ = tower.tokens(patches[:, torch.randperm(9)])
    assert largest(shuffled, pooled) <= 1e-5  # it does not know the places
    fresh = ConvTower(CONV.conv_stages, CONV.vision_width, 32, LAYER_NORM_EPS)  # its residual starts at nothing
    nn.init.zeros_(fresh.class_proj.bias)
    assert largest(fresh.tokens(patches)[0], fresh.ln_post(patches.mean(1)) @ fresh.proj) <= 1e-5


def test_scores_go_through_the_whole_model(model: FLAIR, image: torch.Tensor) -> None:
    """get_logits of a convolutional FLAIR, pair by pair from its parts."""
    tokens = model.tokenize(["a red ball", "two dogs"])
    logits, _ = model.get_logits(image, tokens)
    _, local = oracle_conv_tokens(model, oracle_conv_patches(model, image))
    text = model.encode_text(tokens)
    for i in range(2):
        for j in range(2):
            pooled, _ = model.visual_proj(text[j : j + 1], local[i : i + 1].float())
            cosine = F.cosine_similarity(pooled[0, 0].double(), text[j].double(), dim=0)
            expected = model.towers.logit_scale.double().exp() * cosine + model.towers.logit_bias
            assert float(logits[i, j]) == pytest.approx(float(expected), abs=1e-3)


# -- texts of their own for every image


def test_pool_takes_texts_per_image(model: FLAIR) -> None:
    torch.manual_seed(0)
    local, texts = torch.randn(3, 9, 32), torch.randn(3, 5, 32)
    pooled, attention = model.visual_proj(texts, local)
    scores = model.scores(local, texts)
    assert scores.shape == (3, 5)
    for i in range(3):
        one, share = model.visual_proj(texts[i], local[i : i + 1])  # the published form: all pairs
        assert largest(pooled[i : i + 1], one) <= 1e-5
        assert largest(attention[i : i + 1], share) <= 1e-6
        assert largest(scores[i : i + 1], model.scores(local[i : i + 1], texts[i])) <= 1e-5
    same = texts[:1].expand(3, -1, -1)
    assert largest(model.scores(local, same), model.scores(local, texts[0])) <= 1e-5
    square = torch.randn(3, 3, 32)  # as many texts as images: still every image its own
    assert largest(model.scores(local, square)[1:2], model.scores(local[1:2], square[1])) <= 1e-5


# -- shapes and places


@pytest.mark.parametrize("size", [16, 32, 48, 160, 224])
def test_one_patch_per_16_pixels(model: FLAIR, size: int) -> None:
    pooled, local = model.encode_image(torch.randn(1, 3, size, size))
    assert pooled.shape == (1, 32)
    assert local.shape == (1, (size // 16) ** 2, 32)


def test_training_configuration_has_196_patches() -> None:
    tower = ConvTower(TINY.conv_stages, TINY.vision_width, TINY.embed_dim, LAYER_NORM_EPS)
    with torch.inference_mode():
        pooled, patches = tower(torch.zeros(1, 3, 224, 224))
    assert (pooled.shape, patches.shape) == ((1, 256), (1, 196, 1280))
    assert TINY.grid**2 == 196
    assert ModelConfig.from_json(TINY.to_json()) == TINY


@pytest.mark.parametrize(
    "stages",
    [
        CONV.conv_stages,
        ((1, 4, 2, 2), (2, 4, 1, 2), (2, 4, 1, 2)),
        ((2, 4, 1, 1), (1, 4, 1, 2), (1, 6, 1, 2), (1, 4, 1, 1), (2, 4, 1, 2), (2, 4, 1, 1)),
    ],
)
def test_windows_are_centred_half_a_pixel_off_the_patches(stages: tuple[Stage, ...]) -> None:
    """With the same positive weight everywhere every step's window is symmetrical: pixels weigh as they are reached."""
    trunk = build_trunk(stages, 5).double()
    for parameter in trunk.parameters():
        nn.init.constant_(parameter, 0 if parameter.ndim == 1 else 1 / parameter[0].numel())
    picture = torch.ones(1, 3, 320, 320, dtype=torch.float64, requires_grad=True)
    out = trunk(picture)
    assert 0 < out.min() <= out.max() < 6  # nothing is cut: the gradient is the sum of the paths
    pixels = torch.arange(320, dtype=torch.float64)
    for row, column in ((9, 10), (10, 9), (11, 11)):
        (reached,) = torch.autograd.grad(out[0, :, row, column].sum(), picture, retain_graph=True)
        mass = reached[0].sum(0)
        assert (mass >= 0).all()
        assert mass[[0, -1]].sum() == mass[:, [0, -1]].sum() == 0  # all of the window is in the picture
        assert float((mass.sum(1) * pixels).sum() / mass.sum()) == pytest.approx(16 * row + 8, abs=1e-6)
        assert float((mass.sum(0) * pixels).sum() / mass.sum()) == pytest.approx(16 * column + 8, abs=1e-6)
        middle = 16 * row + 7.5  # of the patch, pixels 16 i to 16 i + 15
        assert abs(float((mass.sum(1) * pixels).sum() / mass.sum()) - middle) == pytest.approx(0.5, abs=1e-6)


def test_a_place_sees_its_own_pixels_first(model: FLAIR) -> None:
    """A spot in the middle of patch (i, j) changes that patch's token more than any other."""
    torch.manual_seed(0)
    for row, column in ((2, 2), (3, 5), (6, 4)):
        spots = torch.zeros(8, 3, 144, 144)
        spots[:, :, 16 * row + 4 : 16 * row + 12, 16 * column + 4 : 16 * column + 12] = torch.randn(8, 3, 8, 8)
        change = model.towers.visual.trunk(spots) - model.towers.visual.trunk(torch.zeros(1, 3, 144, 144))
        moved = change.square().sum((0, 1))
        assert divmod(int(moved.argmax()), 9) == (row, column)


# -- through the files and the encoder


def test_state_goes_round(model: FLAIR, image: torch.Tensor) -> None:
    other = random_flair(CONV, seed=5)
    assert largest(other.encode_image(image)[0], model.encode_image(image)[0]) > 1e-2
    other.load_flair_state(model.flair_state())
    for a, b in zip(other.encode_image(image), model.encode_image(image), strict=True):
        assert torch.equal(a, b)


def test_encoder_end_to_end(model: FLAIR, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAIRSEARCH_CACHE", str(tmp_path / "cache"))
    path = save_flair(model, tmp_path / "conv.safetensors")
    assert load_model(path).config == CONV
    pixels = random_pictures(3, SIZE)
    frame = Frame(SIZE, SIZE, 0, 0, SIZE, SIZE)
    pictures = [Picture(p, frame) for p in pixels]
    encoded = Encoder(str(path), "cpu", torch.float32).encode_pictures(pictures)
    shown = torch.stack([model.preprocess(Image.fromarray(p)) for p in pixels])
    pooled, local = oracle_conv_tokens(model, oracle_conv_patches(model, shown))
    assert np.abs(encoded.pooled - F.normalize(pooled, dim=-1).numpy()).max() <= 1e-3
    again = encoded.scale.astype(np.float64)[..., None] * (encoded.tokens + encoded.shift.astype(np.float64)[..., None])
    assert np.abs(again - local.numpy()).max() <= 2e-3 * float(local.abs().max())
    fast = Encoder(str(path), "cpu", torch.bfloat16).encode_pictures(pictures)
    cosine = (fast.pooled.astype(np.float32) * encoded.pooled.astype(np.float32)).sum(-1)
    assert 0.999 <= cosine.min() < 1  # another precision, the same model
