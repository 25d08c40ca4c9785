"""The convolutional image tower against plain loops and stock EfficientNet-Lite; the positions of its windows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from flairsearch.core.types import Frame, Picture
from flairsearch.model import architecture
from flairsearch.model.conv_tower import ConvTower, InvertedResidual, SameConv, Stage, build_trunk
from flairsearch.model.encoder import TorchEncoder
from flairsearch.model.flair import FLAIR, LAYER_NORM_EPS, ModelConfig, load_model, run_image_tower
from tests.support.random_flair import (
    CONV,
    SUM,
    oracle_conv_patches,
    oracle_conv_tokens,
    random_flair,
    random_pictures,
    save_flair,
)

torch.set_num_threads(1)
SIZE = CONV.image_size
PATCH = 32
BUNDLED = ModelConfig.from_json((Path(__file__).parents[2] / "training" / "flair-small.json").read_text())
LITE0 = ((1, 3, 16, 1, 1), (6, 3, 24, 2, 2), (6, 5, 40, 2, 2), (6, 3, 80, 3, 2), (6, 5, 112, 3, 1), (6, 5, 192, 4, 2))
LITE0 = (*LITE0, (6, 3, 320, 1, 1))


@pytest.fixture(scope="module")
def model() -> FLAIR:
    return random_flair(CONV)


@pytest.fixture(scope="module")
def image() -> Tensor:
    """Pixels with values large enough that some activations are clipped at 6."""
    return torch.from_numpy(random_pictures(2, SIZE)).permute(0, 3, 1, 2) / 10 - 12


def max_difference(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a.detach().double() - b.detach().double()).abs().max())


# -- Values


@pytest.mark.parametrize(
    "stages",
    [
        CONV.conv_stages,
        ((1, 3, 32, 2, 1), (2, 3, 8, 1, 2), (1, 5, 8, 1, 2), (2, 5, 8, 3, 1), (2, 5, 6, 1, 2), (3, 3, 6, 1, 2)),
        ((2, 5, 4, 1, 2), (2, 3, 8, 1, 2), (2, 3, 6, 1, 2), (2, 5, 6, 1, 2), (2, 3, 6, 2, 1), (1, 5, 9, 1, 1)),
    ],
)
def test_trunk_equals_the_description(image: Tensor, stages: tuple[Stage, ...]) -> None:
    """All is in float64, so that only a different formula can differ; some stages follow the last halving."""
    model = random_flair(replace(CONV, conv_stages=stages))
    double = random_flair(model.config).double()
    expected = oracle_conv_patches(model, image)
    found = double.towers.visual.trunk(image.double()).flatten(2).transpose(1, 2)
    assert max_difference(found, expected) <= 1e-10
    assert expected.std() > 0.01
    assert expected.std(1).max() > 1e-3  # The patches differ.
    clipped = double.towers.visual.trunk[0](image.double())
    assert (clipped == 6).any()
    assert (clipped == 0).any()


def test_a_halving_pads_as_tensorflow_or_symmetrically(subtests: pytest.Subtests) -> None:
    """TensorFlow's SAME pads the smaller half before the image; the symmetric one amounts to the larger half."""
    for kernel, symmetric, groups in itertools.product((3, 5), (False, True), (1, 4)):
        with subtests.test(f"{kernel=}, {symmetric=}, {groups=}"):
            torch.manual_seed(0)
            ours = SameConv(4, 8, kernel, 2, groups, symmetric).double()
            for size in (2, 6, 8, 32):
                x = torch.randn(1, 4, size, size, dtype=torch.float64)
                needed = (math.ceil(size / 2) - 1) * 2 + kernel - size
                sides = (needed // 2, needed - needed // 2)
                if symmetric:
                    sides = sides[::-1]
                expected = F.conv2d(nn.ZeroPad2d((*sides, *sides))(x), ours.weight, ours.bias, stride=2, groups=groups)
                assert max_difference(ours(x), expected) <= 1e-12
                assert expected.shape[-1] == size // 2


CONVOLUTIONS = [(1, 1, False), (3, 1, False), (5, 2, False), (3, 2, True)]
DTYPES = [torch.float32, torch.bfloat16, torch.float64, torch.float16]


def test_fused_activations_equal_separate_ones(subtests: pytest.Subtests) -> None:
    """In inference mode the activation is fused into the convolution, except for types oneDNN does not support."""
    for (kernel, stride, symmetric), groups, dtype in itertools.product(CONVOLUTIONS, (1, 8), DTYPES):
        with subtests.test(f"{kernel=}, {stride=}, {symmetric=}, {groups=}, {dtype=}"):
            torch.manual_seed(0)
            ours = SameConv(8, 16, kernel, stride, groups, symmetric).to(dtype).requires_grad_(False)
            x = (5 * torch.randn(2, 8, 12, 12)).to(dtype)
            plain = ours(x).clamp(0, 6)
            assert ((plain == 6).any(), (plain == 0).any()) == (True, True)
            before = x.clone()
            with torch.inference_mode():
                for given in (x, x.contiguous(memory_format=torch.channels_last)):
                    assert max_difference(ours.relu6(given), plain) <= {torch.bfloat16: 0.05, torch.float16: 0.01}.get(
                        dtype, 1e-5
                    )
            assert torch.equal(ours.relu6(x), plain)
            assert torch.equal(x, before)


def test_tower_is_the_same_in_inference_mode(model: FLAIR, image: Tensor) -> None:
    expected = model.encode_image(image)
    with torch.inference_mode():
        found = model.encode_image(image)
        double = random_flair(CONV).double().encode_image(image.double())
    for fused, plain, exact in zip(found, expected, double, strict=True):
        assert max_difference(fused, plain) <= 1e-4
        assert max_difference(exact, plain) <= 1e-4


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_without_halving_the_side_stays(kernel: int) -> None:
    ours = SameConv(3, 5, kernel)
    x = torch.randn(1, 3, 7, 7)
    assert max_difference(ours(x), F.conv2d(x, ours.weight, ours.bias, padding="same")) <= 1e-6


@pytest.mark.parametrize(
    ("out", "stride", "added"), [(6, 1, True), (5, 1, False), (6, 2, False)], ids=["same", "other width", "halved"]
)
@pytest.mark.parametrize("expansion", [1, 3])
def test_the_input_is_added_where_the_shapes_agree(expansion: int, out: int, stride: int, added: bool) -> None:
    """A block whose projection is zero returns what is added; it must not change its input."""
    block = InvertedResidual(6, expansion, 3, out, stride, symmetric=False).requires_grad_(False)
    nn.init.zeros_(block.project.weight)
    nn.init.zeros_(block.project.bias)
    x = 10 * torch.randn(2, 6, 8, 8)
    before = x.clone()
    assert torch.equal(block(x), before if added else torch.zeros(2, out, 8 // stride, 8 // stride))
    assert torch.equal(x, before)


def folded(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> dict[str, Tensor]:
    """Fold a batch norm into the convolution before it; gain and bias are measured by applying the norm."""
    zero = torch.zeros(1, len(norm.weight), 1, 1, dtype=torch.float64)
    plain = [
        F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        for x in (zero, zero + 1)
    ]
    bias, gain = plain[0].flatten(), (plain[1] - plain[0]).flatten()
    return {"weight": convolution.weight * gain[:, None, None, None], "bias": bias}


def units_of_timm(stock: nn.Module) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The units of timm's model under the names of our trunk."""
    yield "0.0", folded(stock.conv_stem, stock.bn1)
    unit = 1
    for block in (block for stage in stock.blocks for block in stage):
        if hasattr(block, "conv_pwl"):
            yield f"{unit}.expand", folded(block.conv_pw, block.bn1)
            yield f"{unit}.depthwise", folded(block.conv_dw, block.bn2)
            yield f"{unit}.project", folded(block.conv_pwl, block.bn3)
        else:
            yield f"{unit}.depthwise", folded(block.conv_dw, block.bn1)
            yield f"{unit}.project", folded(block.conv_pw, block.bn2)
        unit += 1
    yield f"{unit}.0", folded(stock.conv_head, stock.bn2)


def test_equals_stock_efficientnet_lite() -> None:
    """The reference is timm's EfficientNet-Lite0; ours differs only in the windows of the last halving."""
    torch.manual_seed(0)
    stock = timm.create_model("tf_efficientnet_lite0", num_classes=11).eval().double().requires_grad_(False)
    for norm in (part for part in stock.modules() if isinstance(part, nn.BatchNorm2d)):
        norm.weight.uniform_(0.3, 0.7)  # Larger gains would amplify rounding errors.
        norm.bias.normal_(0, 0.5)
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.2, 0.5)
    nn.init.normal_(stock.classifier.weight, std=0.5)
    tower = ConvTower(LITE0, 1280, 11, 8, LAYER_NORM_EPS).double().eval().requires_grad_(False)
    state = {f"trunk.{name}.{x}": tensor for name, both in units_of_timm(stock) for x, tensor in both.items()}
    state |= {f"classifier.{x}": getattr(stock.classifier, x) for x in ("weight", "bias")}
    rest = tower.load_state_dict(state, strict=False)
    assert sorted(rest.missing_keys) == ["ln_post.bias", "ln_post.weight", "proj"]
    assert rest.unexpected_keys == []
    image = torch.randn(2, 3, 96, 96, dtype=torch.float64)
    found = tower.trunk(image)
    assert max_difference(found, stock.forward_features(image)) > 1e-3
    asymmetric = stock.blocks[5][0].conv_dw
    assert (asymmetric.stride, asymmetric.kernel_size) == ((2, 2), (5, 5))
    channels = asymmetric.in_channels
    symmetric = nn.Conv2d(channels, asymmetric.out_channels, 5, 2, padding=2, groups=asymmetric.groups, bias=False)
    symmetric.weight = asymmetric.weight
    stock.blocks[5][0].conv_dw = symmetric
    expected = stock.forward_features(image)
    assert found.std() > 0.05
    assert max_difference(found, expected) <= 1e-9
    tower.proj = nn.Parameter(torch.eye(1291, dtype=torch.float64), requires_grad=False)
    whole, _ = tower(image)
    classes = stock(image).softmax(-1)  # The classifier is applied to the mean of the features.
    assert max_difference(whole[:, 1280:], classes) <= 1e-9
    assert classes.std() > 0.01


def test_towers_tokens_equal_the_description(model: FLAIR, image: Tensor) -> None:
    expected = oracle_conv_tokens(model, oracle_conv_patches(model, image))
    for found, right in zip(model.encode_image(image), expected, strict=True):
        assert max_difference(found, right) <= 1e-4
    for a, b in zip(model.encode_image(image), run_image_tower(model.towers.visual, image), strict=True):
        assert torch.equal(a, b)


def test_the_global_token_is_that_of_the_mean_feature(model: FLAIR) -> None:
    torch.manual_seed(0)
    patches = 3 * torch.randn(4, 9, CONV.vision_width)
    tower = model.towers.visual
    pooled, after = tower.tokens(patches)
    expected, local = oracle_conv_tokens(model, patches)
    assert max_difference(pooled, expected) <= 1e-4
    assert max_difference(after @ tower.proj, local) <= 1e-4
    shuffled, _ = tower.tokens(patches[:, torch.randperm(9)])
    assert max_difference(shuffled, pooled) <= 1e-5  # The order of patches does not matter.
    of_mean, _ = tower.tokens(patches.mean(1, keepdim=True).expand(-1, 3, -1))
    assert max_difference(of_mean, pooled) <= 1e-5
    assert max_difference((after @ tower.proj).mean(1), pooled) > 0.1  # It is not the mean of the tokens.


def test_tokens_end_with_class_probabilities(model: FLAIR) -> None:
    """For each patch, they are the softmax of the classifier on the features before LayerNorm."""
    torch.manual_seed(0)
    patches = 3 * torch.randn(2, 9, CONV.vision_width)
    tower = model.towers.visual
    _, tokens = tower.tokens(patches)
    assert tokens.shape == (2, 9, CONV.vision_width + CONV.classes)
    assert max_difference(tokens[..., : CONV.vision_width], tower.ln_post(patches)) == 0
    shares = tokens[..., CONV.vision_width :]
    for b in range(2):
        for p in range(9):
            logits = [float(tower.classifier.weight[c] @ patches[b, p] + tower.classifier.bias[c]) for c in range(7)]
            total = sum(math.exp(logit) for logit in logits)
            assert shares[b, p].tolist() == pytest.approx([math.exp(logit) / total for logit in logits], abs=1e-5)
    _, scaled = tower.tokens(5 * patches)  # Scaled features change the classes, though not the LayerNorm.
    assert max_difference(scaled[..., CONV.vision_width :], shares) > 0.05


def test_a_certain_class_gives_its_row_of_the_projection(model: FLAIR) -> None:
    """A patch that certainly is of one class becomes that class's row of the projection."""
    other = random_flair(CONV)
    tower = other.towers.visual
    nn.init.zeros_(tower.classifier.weight)
    tower.proj[: CONV.vision_width] = 0
    for c in range(CONV.classes):
        nn.init.constant_(tower.classifier.bias, -50)
        tower.classifier.bias[c] = 50
        pooled, local = other.encode_image(torch.randn(1, 3, 64, 64))
        assert max_difference(pooled[0], tower.proj[CONV.vision_width + c]) <= 1e-6
        assert max_difference(local[0, 3], tower.proj[CONV.vision_width + c]) <= 1e-6


def test_a_tower_without_classes_is_layer_norm_alone(image: Tensor) -> None:
    with pytest.warns(UserWarning, match="zero-element"):
        plain = random_flair(replace(CONV, classes=0))
    patches = plain.towers.visual.trunk(image).flatten(2).transpose(1, 2)
    pooled, local = plain.encode_image(image)
    tower = plain.towers.visual
    assert tower.proj.shape == (CONV.vision_width, 32)
    assert max_difference(local, tower.ln_post(patches) @ tower.proj) <= 1e-5
    assert max_difference(pooled, tower.ln_post(patches.mean(1)) @ tower.proj) <= 1e-5


def test_scores_go_through_the_whole_model(model: FLAIR, image: Tensor) -> None:
    """`get_logits` of a convolutional FLAIR equals logits computed pair by pair from its parts."""
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


# -- Separate texts for every image


def test_pool_takes_texts_per_image(model: FLAIR) -> None:
    torch.manual_seed(0)
    local, texts = torch.randn(3, 9, 32), torch.randn(3, 5, 32)
    pooled, attention = model.visual_proj(texts, local)
    scores = model.scores(local, texts)
    assert scores.shape == (3, 5)
    for i in range(3):
        single, share = model.visual_proj(texts[i], local[i : i + 1])  # The published form scores all pairs.
        assert max_difference(pooled[i : i + 1], single) <= 1e-5
        assert max_difference(attention[i : i + 1], share) <= 1e-6
        assert max_difference(scores[i : i + 1], model.scores(local[i : i + 1], texts[i])) <= 1e-5
    same = texts[:1].expand(3, -1, -1)
    assert max_difference(model.scores(local, same), model.scores(local, texts[0])) <= 1e-5
    square = torch.randn(3, 3, 32)  # With as many texts as images, every image still has its own texts.
    assert max_difference(model.scores(local, square)[1:2], model.scores(local[1:2], square[1])) <= 1e-5


# -- Shapes and positions


@pytest.mark.parametrize("size", [32, 64, 96, 160, 224])
def test_one_patch_per_32_pixels(model: FLAIR, size: int) -> None:
    pooled, local = model.encode_image(torch.randn(1, 3, size, size))
    assert pooled.shape == (1, 32)
    assert local.shape == (1, (size // 32) ** 2, 32)


@pytest.mark.parametrize("config", [CONV, replace(CONV, classes=1), replace(BUNDLED, text_layers=1), SUM])
def test_state_is_what_the_architecture_expects(config: ModelConfig) -> None:
    tower = ConvTower(config.conv_stages, config.vision_width, config.classes, config.embed_dim, LAYER_NORM_EPS)
    found = {f"visual.{name}": tuple(tensor.shape) for name, tensor in tower.state_dict().items()}
    expected = architecture.expected_tensors(config.to_json())
    found["image_post.proj"] = found.pop("visual.proj")
    assert found == {name: expected[name] for name in expected if name.startswith(("visual.", "image_post"))}


def test_training_configuration_has_196_patches() -> None:
    tower = ConvTower(BUNDLED.conv_stages, BUNDLED.vision_width, BUNDLED.classes, BUNDLED.embed_dim, LAYER_NORM_EPS)
    with torch.inference_mode():
        pooled, patches = tower(torch.zeros(1, 3, 448, 448))
    assert (pooled.shape, patches.shape) == ((1, 256), (1, 196, 2280))
    assert BUNDLED.grid**2 == 196
    assert ModelConfig.from_json(BUNDLED.to_json()) == BUNDLED
    assert BUNDLED.conv_stages == LITE0


@pytest.mark.parametrize(
    "stages",
    [
        CONV.conv_stages,
        ((1, 3, 4, 2, 2), (2, 5, 4, 1, 2), (2, 5, 4, 1, 2), (1, 3, 4, 1, 2)),
        ((2, 5, 4, 1, 2), (1, 5, 4, 1, 2), (1, 3, 6, 1, 1), (1, 5, 4, 1, 2), (2, 5, 4, 1, 2), (2, 5, 4, 1, 1)),
    ],
)
def test_windows_are_centred_half_a_pixel_off_the_patches(stages: tuple[Stage, ...]) -> None:
    """With equal positive weights, the gradient of an output weights the pixels of its window symmetrically."""
    trunk = build_trunk(stages, 5).double()
    for parameter in trunk.parameters():
        nn.init.constant_(parameter, 0 if parameter.ndim == 1 else 1 / parameter[0].numel())
    picture = torch.full((1, 3, 640, 640), 0.1, dtype=torch.float64, requires_grad=True)
    out = trunk(picture)
    assert 0 < out.min() <= out.max() < 6  # No activation is clipped, so the gradient is a sum over all paths.
    pixels = torch.arange(640, dtype=torch.float64)
    for row, column in ((9, 10), (10, 9), (11, 11)):
        (reached,) = torch.autograd.grad(out[0, :, row, column].sum(), picture, retain_graph=True)
        mass = reached[0].sum(0)
        assert (mass >= 0).all()
        assert mass[[0, -1]].sum() == mass[:, [0, -1]].sum() == 0  # The window lies inside the picture.
        found = [float((mass.sum(1 - axis) * pixels).sum() / mass.sum()) for axis in (0, 1)]
        assert found == pytest.approx([PATCH * row + 15, PATCH * column + 15], abs=1e-6)
        middle = [PATCH * row + 15.5, PATCH * column + 15.5]  # Patch i covers the pixels 32 i to 32 i + 31.
        assert np.abs(np.subtract(found, middle)) == pytest.approx(0.5, abs=1e-6)


def test_a_patch_depends_most_on_its_own_pixels() -> None:
    """In random trunks, a spot inside a patch changes the features of that patch most."""
    torch.manual_seed(0)
    trunks = [build_trunk(CONV.conv_stages, 16).requires_grad_(False) for _ in range(12)]
    for row, column in ((2, 2), (3, 5), (6, 4)):
        spots = torch.zeros(4, 3, 288, 288)
        spots[:, :, 32 * row + 8 : 32 * row + 24, 32 * column + 8 : 32 * column + 24] = torch.randn(4, 3, 16, 16)
        changes = [(trunk(spots) - trunk(torch.zeros(1, 3, 288, 288))).square().sum((0, 1)) for trunk in trunks]
        moved = torch.stack([change / change.sum() for change in changes]).mean(0)
        assert divmod(int(moved.argmax()), 9) == (row, column)
        assert moved[row, column] > 1.2 * moved.flatten().sort().values[-2]


# -- Files and the encoder


def test_state_is_restored(model: FLAIR, image: Tensor) -> None:
    other = random_flair(CONV, seed=5)
    assert max_difference(other.encode_image(image)[0], model.encode_image(image)[0]) > 1e-2
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
    encoded = TorchEncoder(str(path), "cpu", torch.float32).encode_images(pictures)
    shown = torch.stack([model.preprocess(Image.fromarray(p)) for p in pixels])
    pooled, local = oracle_conv_tokens(model, oracle_conv_patches(model, shown))
    assert np.abs(encoded.pooled - F.normalize(pooled, dim=-1).numpy()).max() <= 1e-3
    again = encoded.scale.astype(np.float64)[..., None] * (encoded.tokens + encoded.shift.astype(np.float64)[..., None])
    assert np.abs(again - local.numpy()).max() <= 2e-3 * float(local.abs().max())
    fast = TorchEncoder(str(path), "cpu", torch.bfloat16).encode_images(pictures)
    cosine = (fast.pooled.astype(np.float32) * encoded.pooled.astype(np.float32)).sum(-1)
    assert 0.999 <= cosine.min() < 1  # The precisions differ, the model is the same.


@pytest.mark.parametrize("count", [1, 7, 8, 9, 17])
def test_pictures_are_encoded_in_batches(
    model: FLAIR, tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For any number of pictures, each gets its own tokens, in order."""
    monkeypatch.setenv("FLAIRSEARCH_CACHE", str(tmp_path / "cache"))
    encoder = TorchEncoder(str(save_flair(model, tmp_path / "conv.safetensors")), "cpu", torch.float32)
    pictures = [Picture(pixels, Frame(SIZE, SIZE, 0, 0, SIZE, SIZE)) for pixels in random_pictures(count, SIZE)]
    together, alone = encoder.encode_images(pictures), [encoder.encode_images([picture]) for picture in pictures]
    for name in ("pooled", "tokens", "shift", "scale"):
        expected = np.concatenate([getattr(encoded, name) for encoded in alone]).astype(np.float32)
        assert np.abs(getattr(together, name) - expected).max() <= 4e-3 * np.abs(expected).max()
    assert count == 1 or np.abs(together.pooled[:1] - together.pooled[1:].astype(np.float32)).max() > 0.02
