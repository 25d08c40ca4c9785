"""Maps and part scores against FLAIR's own pool in float64; painted squares through the whole Locator."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from flairsearch.core.types import EncodedText, EncodedViews, Frame, Picture, PoolWeights
from flairsearch.images.decoding import decode
from flairsearch.model.encoder import TorchEncoder
from flairsearch.model.flair import FLAIR, LAYER_NORM_EPS
from flairsearch.regions.boxes import find_boxes, find_heat, patch_mask
from flairsearch.regions.locator import Locator, patch_cosine
from flairsearch.rerank.torch_backend import TorchPool
from tests.support.fake import COLOURS, GRID, SIZE, FakeEncoder, expected_score
from tests.support.random_flair import SMALL, oracle_image, oracle_text, pool_flair, random_flair, save_flair

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("error")

SHAPES = [(1, 16, 4), (9, 32, 1), (49, 64, 8), (196, 64, 4)]  # Each shape has patches, dimensions and heads.


def fold(model: FLAIR, text: torch.Tensor) -> EncodedText:
    u, c = model.folded_pool.fold(text[None].float().numpy())
    return EncodedText("", text.float().numpy(), u[0], c[0])


def keep(local: torch.Tensor) -> EncodedViews:
    """Convert local tokens f64[N, P, D] to the form that model/encoder.Encoder stores."""
    mean, scale = local.mean(-1), (local.var(-1, correction=0) + LAYER_NORM_EPS).sqrt()
    x = F.layer_norm(local, local.shape[-1:], eps=LAYER_NORM_EPS)
    pooled = F.normalize(local.mean(1), dim=-1)
    return EncodedViews(*(part.half().numpy() for part in (pooled, x, mean / scale, scale)))


def draw(views: int, patches: int, dim: int, heads: int) -> tuple[FLAIR, torch.Tensor, torch.Tensor]:
    """Draw a model, a text f[D] and local tokens f64[N, P, D], each token with its own mean and scale."""
    model = pool_flair(dim, heads, seed=patches)
    local = torch.randn(views, patches, dim, dtype=torch.float64) * (torch.rand(views, patches, 1) * 3 + 0.5)
    return model, torch.randn(dim) * 2, local + torch.randn(views, patches, 1)


def pool_oracle(model: FLAIR, text: torch.Tensor) -> Callable[[np.ndarray], float]:
    """Return a function from stored tokens x [n, D] to cos(pool(t, x), t), by PyTorch's attention in float64."""
    state = {k.removeprefix("visual_proj."): v.double() for k, v in model.flair_state().items() if "visual_proj" in k}
    dim = len(text)
    attention = torch.nn.MultiheadAttention(dim, model.config.pool_heads, batch_first=True, add_zero_attn=True).double()
    attention.load_state_dict({k.removeprefix("attn."): v for k, v in state.items() if k.startswith("attn.")})
    query = F.layer_norm(text.double(), (dim,), state["ln_q.weight"], state["ln_q.bias"], LAYER_NORM_EPS)

    def score(x: np.ndarray) -> float:
        tokens = torch.from_numpy(x.astype(np.float64))
        key, value = (tokens * state[f"{name}.weight"] + state[f"{name}.bias"] for name in ("ln_k", "ln_v"))
        with torch.inference_mode():
            pooled, _ = attention(query[None, None], key[None], value[None], need_weights=False)
        return float(F.cosine_similarity(pooled[0, 0], text.double(), dim=0))

    return score


# -- against the model


@pytest.mark.parametrize(("patches", "dim", "heads"), SHAPES)
def test_a_part_scores_as_a_pool_over_its_tokens_alone(patches: int, dim: int, heads: int) -> None:
    model, text, local = draw(1, patches, dim, heads)
    x, rng = keep(local).tokens[0], np.random.default_rng(patches)
    parts = rng.random((12, patches)) < rng.random((12, 1))
    parts[0], parts[1], parts[2] = (
        True,
        False,
        np.arange(patches) == patches // 2,
    )  # The parts are all patches, none and one.
    found = Locator(model.folded_pool.weights).score_parts(x, fold(model, text), parts)
    oracle = pool_oracle(model, text)
    expected = [oracle(x[part]) for part in parts if part.any()]
    assert found.dtype == np.float32
    assert np.abs(found[parts.any(1)] - expected).max() <= 1e-5
    assert np.ptp(expected) > 0.01 or patches == 1  # The parts must have different scores.
    nothing = F.cosine_similarity(model.flair_state()["visual_proj.attn.out_proj.bias"], text, dim=0)
    assert np.abs(found[~parts.any(1)] - float(nothing)).max() <= 1e-5


@pytest.mark.parametrize(("patches", "dim", "heads"), SHAPES)
def test_the_whole_view_scores_as_in_the_ranking(patches: int, dim: int, heads: int) -> None:
    model, text, local = draw(5, patches, dim, heads)
    encoded, query, weights = keep(local), fold(model, text), model.folded_pool.weights
    locator, reranker = Locator(weights), TorchPool(weights)
    whole = np.ones((1, patches), np.bool_)
    found = [locator.score_parts(tokens, query, whole)[0] for tokens in encoded.tokens]
    assert np.abs(found - reranker.score([encoded.tokens], query)).max() <= 1e-6
    attention = locator.attend(encoded, query)
    assert attention.dtype == np.float32
    assert np.abs(attention - reranker.attend([encoded.tokens], query)).max() <= 1e-6
    for i in range(5):  # The result for a view does not depend on other views.
        assert np.abs(locator.attend(encoded.only(i), query)[0] - attention[i]).max() <= 1e-6


@pytest.mark.parametrize(("patches", "dim", "heads"), SHAPES)
def test_similarity_is_the_cosine_of_local_tokens(patches: int, dim: int, heads: int) -> None:
    model, text, local = draw(3, patches, dim, heads)
    found = Locator(model.folded_pool.weights).patch_similarity(keep(local), fold(model, text))
    expected = F.cosine_similarity(local, text.double(), dim=-1).numpy()
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() <= 1e-3  # The error is half a step of fp16 at 4, in each dimension.


def test_patch_cosine_is_that_of_local_tokens(tmp_path: Path) -> None:
    """The model's own local tokens, not those that are stored."""
    encoder = TorchEncoder(str(save_flair(random_flair(), tmp_path / "m.safetensors")), "cpu", torch.float32)
    pixels = np.random.default_rng(0).integers(256, size=(3, 48, 48, 3), dtype=np.uint8)
    encoded = encoder.encode_images([Picture(one, Frame(48, 48, 0, 0, 48, 48)) for one in pixels])
    queries = encoder.encode_texts(["a dog", "snow"])
    with torch.inference_mode():
        _, local = encoder._model.encode_image(encoder._normalise(pixels))
    texts = torch.from_numpy(np.stack([query.vector for query in queries]))
    expected = torch.nn.functional.cosine_similarity(local[:, None], texts[None, :, None], dim=-1).numpy()
    found = patch_cosine(encoded.tokens, encoded.shift, texts.numpy())
    assert found == pytest.approx(expected, abs=2e-3)  # Stored tokens are float16.


def test_patch_cosine_of_zero_vectors() -> None:
    nothing = EncodedViews(*(np.zeros(shape, np.float16) for shape in ((1, 4), (1, 9, 4), (1, 9), (1, 9))))
    assert (patch_cosine(nothing.tokens, nothing.shift, np.ones((2, 4), np.float32)) == 0).all()
    assert (patch_cosine(nothing.tokens, nothing.shift, np.zeros((2, 4), np.float32)) == 0).all()


def test_similarity_of_a_models_own_tokens() -> None:
    """The tokens come from pixels and words through towers with random weights."""
    model = random_flair()
    images = torch.randn(2, 3, SMALL.image_size, SMALL.image_size)
    _, local = oracle_image(model, images)
    (text,) = oracle_text(model, model.tokenize(["two dogs"]))
    found = Locator(model.folded_pool.weights).patch_similarity(keep(local), fold(model, text.float()))
    expected = F.cosine_similarity(local, text, dim=-1).numpy()
    assert np.abs(found - expected).max() <= 1e-3
    assert np.ptp(expected) > 0.1


# -- extreme values


@pytest.mark.parametrize("shift", [-1e4, 1e4])
@pytest.mark.parametrize("steep", [0, 1, 3000])
def test_extreme_logits(shift: float, steep: float) -> None:
    """The zero key takes all of the attention or none; one patch takes the rest, or all patches share it evenly."""
    model, text, local = draw(1, 49, 64, 4)
    query = fold(model, text)
    far = EncodedText("", query.vector, query.u * np.float32(steep), query.c * 0 + np.float32(shift))
    encoded, weights = keep(local), model.folded_pool.weights
    parts = np.random.default_rng(0).random((6, 49)) < 0.5
    parts[0], parts[1] = True, False
    locator = Locator(weights)
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        found, attention = locator.score_parts(encoded.tokens[0], far, parts), locator.attend(encoded, far)[0]
        heat, regions = locator.find(encoded, Frame(70, 70, 0, 0, 70, 70), far)
    assert np.isfinite([*found, *attention, *heat.ravel()]).all()
    assert 1 <= len(regions) <= 3
    x = encoded.tokens[0].astype(np.float64)
    logits = x @ far.u.T.astype(np.float64) + far.c
    expected = [softmax_oracle(x[part], logits[part], weights, far) for part in parts]
    if steep != 1 or shift < 0:  # A float32 logit of 1e4 has an error of a thousandth.
        assert np.abs(found - expected).max() <= 1e-5
    if steep == 0:
        assert np.abs(attention - (1 / 49 if shift > 0 else 0)).max() <= 1e-6


def softmax_oracle(x: np.ndarray, logits: np.ndarray, weights: PoolWeights, query: EncodedText) -> float:
    """Score tokens x f64[n, D] with logits f64[n, H] in float64; the zero key's logit is 0."""
    padded = np.concatenate([logits, np.zeros((1, logits.shape[1]))])
    share = np.exp(padded - padded.max(0))
    share = (share / share.sum(0))[:-1]
    heads = [
        value @ (share[:, h] @ x) + share[:, h].sum() * bias
        for h, (value, bias) in enumerate(zip(weights.value, weights.value_bias, strict=True))
    ]
    pooled = weights.out @ np.concatenate(heads) + weights.out_bias
    return float(pooled @ query.vector / np.linalg.norm(pooled) / np.linalg.norm(query.vector.astype(np.float64)))


def test_zero_vectors_score_zero() -> None:
    """A zero vector has no direction; its cosine is 0, without a division by zero."""
    zero = np.zeros((1, 4, 8), np.float16)
    encoded = EncodedViews(zero[:, 0], zero, zero[..., 0], zero[..., 0])
    empty = EncodedText("", np.zeros(8, np.float32), np.zeros((2, 8), np.float32), np.zeros(2, np.float32))
    locator = Locator(PoolWeights(np.zeros((2, 4, 8), "f4"), np.zeros((2, 4), "f4"), np.eye(8), np.zeros(8), 1.0, 0.0))
    assert not locator.patch_similarity(encoded, empty).any()
    assert not locator.score_parts(zero[0], empty, np.ones((1, 4), np.bool_)).any()
    _, (region,) = locator.find(encoded, Frame(20, 10, 0, 0, 20, 10), empty)
    assert (region.box, region.score) == ((0, 0, 20, 10), 0)


# -- Locator.find


def test_find_equals_its_stages() -> None:
    model, _, local = draw(8, 196, 64, 4)
    locator, encoded, several = Locator(model.folded_pool.weights), keep(local), 0
    for i, frame in enumerate([Frame(640, 480, 0, 0, 640, 480), Frame(640, 480, 80, 0, 560, 480)] * 4):
        query, view = fold(model, torch.randn(64) * 2), encoded.only(i)
        heat, regions = locator.find(view, frame, query)
        expected = find_heat(locator.attend(view, query)[0], locator.patch_similarity(view, query)[0])
        assert np.abs(heat - expected).max() <= 1e-5
        boxes = find_boxes(heat)
        parts = np.stack([patch_mask(box, 14) for box in boxes])
        scores = locator.score_parts(view.tokens[0], query, parts)
        scored = {frame.to_pixels(*box): score for box, score in zip(boxes, scores, strict=True)}
        assert {region.box: pytest.approx(region.score, abs=1e-6) for region in regions} == scored
        assert [region.score for region in regions] == sorted((r.score for r in regions), reverse=True)
        assert all(type(region.score) is float and type(edge) is int for region in regions for edge in region.box)
        several += len(regions) > 1
    assert several


def test_inputs_are_not_modified() -> None:
    model, text, local = draw(1, 49, 64, 4)
    encoded, query = keep(local), fold(model, text)
    columns = [encoded.pooled, encoded.tokens, encoded.shift, encoded.scale, query.vector, query.u, query.c]
    before = [column.copy() for column in columns]
    for column in columns:
        column.flags.writeable = False  # Memory-mapped rows are read-only, too.
    frame, locator = Frame(10, 10, 0, 0, 10, 10), Locator(model.folded_pool.weights)
    first = locator.find(encoded, frame, query)
    assert locator.find(encoded, frame, query)[1] == first[1]
    assert all(np.array_equal(*pair) for pair in zip(columns, before, strict=True))


def photo(wide: int, high: int, box: tuple[int, int, int, int]) -> bytes:
    picture = Image.new("RGB", (wide, high), COLOURS["black"])
    picture.paste(COLOURS["red"], box)
    stream = BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("views", ["squash", "center", "tiles:4"])
@pytest.mark.parametrize("box", [(96, 32, 160, 96), (64, 0, 128, 64), (128, 64, 192, 128), (64, 0, 192, 128)])
def test_a_painted_square_in_every_kind_of_view(views: str, box: tuple[int, int, int, int]) -> None:
    """The box is exact to half a patch if the view shows the square whole; it always lies in the photo and the view."""
    encoder, wide, high = FakeEncoder(), 256, 128
    locator, (query,) = Locator(encoder.pool_weights), encoder.encode_texts(["red"])
    pictures = decode(photo(wide, high, box), views, SIZE)
    assert len(pictures) == {"squash": 1, "center": 1}.get(views, len(pictures))
    whole = 0
    for picture in pictures:
        frame = picture.frame
        _, regions = locator.find(encoder.encode_images([picture]), frame, query)
        for region in regions:
            assert max(0, frame.left) <= region.box[0] < region.box[2] <= min(wide, frame.right)
            assert max(0, frame.top) <= region.box[1] < region.box[3] <= min(high, frame.bottom)
        edges = np.array(frame.to_view(box))
        if edges.min() >= 0 and edges.max() <= 1:
            error = np.abs(np.array(frame.to_view(regions[0].box)) - edges).max() * GRID
            assert error <= (1.01 if views.startswith("tiles") else 0.51), (
                regions,
                frame,
            )  # Tiles may cut the square's patches.
            whole += 1
    assert whole


def test_a_painted_square_scores_as_its_patches_alone() -> None:
    encoder = FakeEncoder()
    (picture,) = decode(photo(64, 64, (16, 16, 56, 56)), "squash", SIZE)
    encoded, (query,) = encoder.encode_images([picture]), encoder.encode_texts(["red"])
    _, (region,) = Locator(encoder.pool_weights).find(encoded, picture.frame, query)
    assert region.box == (16, 16, 56, 56)
    assert region.score == pytest.approx(expected_score(25), abs=1e-5)


@pytest.mark.parametrize("colour", ["red", "blue"])
def test_equal_patches_give_the_whole_view(colour: str) -> None:
    encoder = FakeEncoder()
    stream = BytesIO()
    Image.new("RGB", (90, 60), COLOURS[colour]).save(stream, "PNG")
    (picture,) = decode(stream.getvalue(), "squash", SIZE)
    encoded, (query,) = encoder.encode_images([picture]), encoder.encode_texts(["red"])
    heat, (region,) = Locator(encoder.pool_weights).find(encoded, picture.frame, query)
    assert region.box == (0, 0, 90, 60)
    assert not heat.any()
