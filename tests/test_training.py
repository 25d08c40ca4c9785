"""Training in small: losses by loops, batches of recognisable photos, runs that are stopped and go on, evaluation."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from random_flair import CONV, random_flair, random_pictures
from safetensors.torch import load_file

from flairsearch import weights
from flairsearch.model import FLAIR, ModelConfig, load_model
from training import data, evaluate, train
from training.batches import Batch, Batches
from training.data import Annotations
from training.losses import conditioned_texts, own_texts, relative_error, sigmoid_loss
from training.student import Student
from training.teacher import Teacher
from training.train import Optimizer, Phase

torch.set_num_threads(1)
START, END = 49406, 49407


# -- losses


def test_sigmoid_loss_by_loops() -> None:
    torch.manual_seed(0)
    logits, positive = 3 * torch.randn(4, 7, dtype=torch.float64), torch.rand(4, 7) < 0.3
    total = 0.0
    for i in range(4):
        for j in range(7):
            signed = float(logits[i, j]) if positive[i, j] else -float(logits[i, j])
            total += np.log(1 + np.exp(-signed))
    assert float(sigmoid_loss(logits, positive)) == pytest.approx(total / 4, rel=1e-12)
    extreme = sigmoid_loss(torch.tensor([[300.0, -300.0]]), torch.tensor([[False, True]]))
    assert float(extreme) == pytest.approx(600)


@pytest.mark.parametrize(("images", "each"), [(5, 3), (4, 1), (1, 2), (2, 1)])
def test_conditioned_texts(images: int, each: int) -> None:
    torch.manual_seed(0)
    drawn = [conditioned_texts(images, each, torch.device("cpu")) for _ in range(30)]
    for chosen in drawn:
        assert chosen.shape == (images, each + images - 1)
        for i, row in enumerate(chosen.tolist()):
            assert row[:each] == [i * each + k for k in range(each)]
            assert [text // each for text in row[each:]] == [other for other in range(images) if other != i]
    if images > 1:
        others = {tuple(chosen[0, each:].tolist()) for chosen in drawn}
        assert (len(others) > 1) == (each > 1)  # drawn anew every time
    own = own_texts(images, each, torch.device("cpu"))
    assert own.tolist() == [[j // each == i for j in range(images * each)] for i in range(images)]


def test_relative_error_by_loops() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(6, 4, 5, 5)), rng.normal(2, [[[[1]], [[2]], [[3]], [[0.5]]]], (6, 4, 5, 5))
    squares = sum((x - y) ** 2 for x, y in zip(a.ravel(), b.ravel(), strict=True)) / a.size
    variance = sum(b[:, c].var(ddof=1) for c in range(4)) / 4
    found = relative_error(torch.from_numpy(a), torch.from_numpy(b))
    assert float(found) == pytest.approx(squares / variance, rel=1e-5)
    mean = torch.from_numpy(b.mean((0, 2, 3), keepdims=True)).expand(6, 4, 5, 5)
    assert float(relative_error(mean, torch.from_numpy(b))) == pytest.approx(1, abs=0.01)


def test_flair_losses_pair_by_pair() -> None:
    """The text-conditioned and the global loss from the model's own scores of one image and one text at a time."""
    torch.manual_seed(0)
    student = Student(CONV)
    random = random_flair(CONV)
    student.flair.load_flair_state(random.flair_state())
    text = random.tokenize([f"photo {n} of a dog" for n in range(6)])
    features = torch.rand(3, 4, 4, CONV.vision_width) * 3
    torch.manual_seed(5)
    chosen = conditioned_texts(3, 2, torch.device("cpu"))
    torch.manual_seed(5)
    found = student.head_losses(Batch(torch.empty(0, dtype=torch.uint8), features, features.mean((1, 2)), text))
    pooled, patches = random.towers.visual.tokens(features.flatten(1, 2))
    local, vectors = patches @ random.towers.visual.proj, random.encode_text(text)
    scale, bias = float(random.towers.logit_scale.exp()), float(random.towers.logit_bias)
    conditioned = whole = 0.0
    for i in range(3):
        for j in range(6):
            sign = 1 if j // 2 == i else -1
            cosine = torch.cosine_similarity(pooled[i].double(), vectors[j].double(), dim=0)
            whole += np.log1p(np.exp(-sign * (scale * float(cosine) + bias))) / 3
            if j in chosen[i]:
                logit = scale * float(random.scores(local[i : i + 1], vectors[j : j + 1])) + bias
                conditioned += np.log1p(np.exp(-sign * logit)) / 3
    assert found["conditioned"].item() == pytest.approx(conditioned, rel=1e-4)
    assert found["global"].item() == pytest.approx(whole, rel=1e-4)


# -- batches

PHOTOS, CAPTIONS = 20, 4


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photo n is of one grey; its features say 1, n, and 0 or 1 on the left or right half."""
    folder = tmp_path_factory.mktemp("cache")
    photos = np.zeros((PHOTOS, 224, 224, 3), np.uint8)
    photos += (40 + 8 * np.arange(PHOTOS, dtype=np.uint8))[:, None, None, None]
    for name, grid in (("features", 14), ("coarse", 7)):
        features = np.zeros((PHOTOS, grid, grid, 3), np.float16)
        features[..., 0] = 1
        features[..., 1] = np.arange(PHOTOS)[:, None, None]
        features[..., 2] = np.linspace(0, 1, grid)
        np.save(folder / f"{name}.npy", features)
    np.save(folder / "photos.npy", photos)
    return folder


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    """Caption k of photo n is START, ten words 100 + 10 n + k, END."""
    result = np.zeros((PHOTOS, CAPTIONS, 77), np.int64)
    words = 100 + 10 * np.arange(PHOTOS)[:, None] + np.arange(CAPTIONS)
    result[..., 0], result[..., 1:11], result[..., 11] = START, words[..., None], END
    return result


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Colours stay as they are."""
    monkeypatch.setattr("training.batches._jitter", lambda rng, pictures: pictures)


def speaker(row: torch.Tensor) -> int:
    """The photo that a caption speaks of."""
    words = set(row.tolist()) - {0, START, END}
    (word,) = words
    return (word - 100) // 10


def test_a_steps_batch_is_always_the_same(cache: Path, tokens: np.ndarray) -> None:
    first, again, other = (Batches(cache, tokens, 64, 4, seed) for seed in (0, 0, 1))
    for step in range(6):
        a, b, c = first.batch(step, 4), again.batch(step, 4), other.batch(step, 4)
        assert torch.equal(a.pictures, b.pictures)
        assert torch.equal(a.targets, b.targets)
        assert torch.equal(a.mean, b.mean)
        assert torch.equal(a.text, b.text)
        assert not torch.equal(a.pictures, c.pictures)
        assert not torch.equal(a.pictures, first.batch(step + 6, 4).pictures)
    for step, ahead in enumerate(again.stream(2, 5, 4), 2):  # wherever the stream begins
        assert torch.equal(ahead.pictures, first.batch(step, 4).pictures)
        assert torch.equal(ahead.text, first.batch(step, 4).text)
    assert step == 4


@pytest.mark.parametrize(("step", "side", "count"), [(0, 1, 5), (2, 1, 5), (1, 2, 5), (3, 2, 5), (5, 3, 2)])
@pytest.mark.usefixtures("plain")
def test_pictures_features_and_captions_agree(
    cache: Path, tokens: np.ndarray, step: int, side: int, count: int
) -> None:
    """In which cell which photo is: by the colour, by the feature, by the caption."""
    each = 3 if side == 1 else side**2
    for targets in ("features", "coarse"):
        pixels = targets == "features"
        batch = Batches(cache, tokens, 96, 6 * side, 0, targets).batch(step, 5)
        cells = batch.targets.shape[1] // side
        assert len(batch.targets) == len(batch.mean) == count
        assert batch.targets.shape[1] == (6 * side if pixels else 7 * side)
        assert batch.pictures.shape == ((count, 96, 96, 3) if pixels else (0,))
        assert len(batch.text) == count * each
        shown = []
        for i in range(count):
            mosaic = []
            for cell in range(side**2):
                row, column = divmod(cell, side)
                middle = batch.targets[i, row * cells + cells // 2, column * cells + cells // 2]
                photo = round(float(middle[1]))
                assert float(middle[1]) == pytest.approx(photo, abs=1e-2)
                said = batch.text[i * each : (i + 1) * each] if side == 1 else batch.text[i * each + cell][None]
                assert {speaker(text) for text in said} == {photo}
                if pixels:
                    edges = [round(96 * k / side) for k in range(side + 1)]
                    square = batch.pictures[i, edges[row] : edges[row + 1], edges[column] : edges[column + 1]]
                    assert (square == 40 + 8 * photo).all()
                mosaic.append(photo)
            assert float(batch.mean[i, 0]) == pytest.approx(1, abs=2e-3)
            assert float(batch.mean[i, 1]) == pytest.approx(np.mean(mosaic), abs=0.03)
            shown += mosaic
        assert len(set(shown)) == len(shown)  # no photo twice
        if side == 1:
            rows = [tuple(set(row.tolist()) - {0, START, END}) for row in batch.text]
            assert len(set(rows)) == len(rows)  # different captions of each


@pytest.mark.parametrize("step", [0, 1, 5])
@pytest.mark.usefixtures("plain")
def test_flips_and_crops_are_those_of_the_features(tmp_path: Path, tokens: np.ndarray, step: int) -> None:
    """Photos and features both hold the position in the photo: what is cut and mirrored in one is in the other."""
    place = (np.arange(224) + 0.5) / 224
    ramp = np.stack(np.broadcast_arrays(place[None, :], place[:, None], 0.5), -1)
    np.save(tmp_path / "photos.npy", np.repeat((ramp * 255).round().astype(np.uint8)[None], PHOTOS, 0))
    for name, grid in (("features", 14), ("coarse", 7)):
        coarse = ramp.reshape(grid, 224 // grid, grid, 224 // grid, 3).mean((1, 3))
        np.save(tmp_path / f"{name}.npy", np.repeat(coarse[None], PHOTOS, 0).astype(np.float16))
    side = {0: 1, 1: 2, 5: 3}[step]
    batch = Batches(tmp_path, tokens, 84 * side, 7 * side, 0).batch(step, 8)
    pictures = batch.pictures.double().reshape(-1, 7 * side, 12, 7 * side, 12, 3).mean((2, 4)) / 255
    inner = torch.arange(7 * side).reshape(side, 7)[:, 1:-1].flatten()  # interpolation flattens the photos' edges
    near = (pictures - batch.targets)[:, inner][:, :, inner].abs()
    assert near[..., :2].max() <= 0.05
    whole = batch.pictures.double().mean((1, 2)) / 255
    upright = (whole - batch.mean)[:, 1].abs()  # the mean knows nothing of mirrors, and need not
    assert upright.max() <= 0.03
    cells = batch.targets.reshape(-1, side, 7, side, 7, 3)
    right = cells[:, :, 3, :, 4, 0] - cells[:, :, 3, :, 2, 0]
    assert (right < 0).any()
    assert (right > 0).any()  # some were mirrored, some not
    assert (cells[:, :, 4, :, 3, 1] > cells[:, :, 2, :, 3, 1]).all()  # none stands on its head


def test_dropped_words_keep_the_ends(cache: Path, tokens: np.ndarray) -> None:
    lengths = []
    batches = Batches(cache, tokens, 32, 2, 0, "coarse")
    for step in range(0, 60, 2):
        text = batches.batch(step, 8).text
        assert text.shape[1] == int(text.argmax(1).max()) + 1  # cut after the longest
        for row in text.tolist():
            end = row.index(END)
            assert row[0] == START
            assert len(set(row[1:end])) == 1
            assert not any(row[end + 1 :])
            lengths.append(end - 1)
    assert np.mean(lengths) == pytest.approx(9, abs=0.2)  # one word in ten
    assert max(lengths) == 10


# -- data and teacher


def test_photos_of_a_folder_and_of_a_tar(tmp_path: Path) -> None:
    import tarfile

    names = ["b.png", "a.png"]
    for name, colour in zip(names, ("red", "blue"), strict=True):
        Image.new("RGB", (50, 30), colour).save(tmp_path / name)
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        for name in sorted(names):
            tar.add(tmp_path / name, f"./{name}")
    for source in (tmp_path, tmp_path / "photos.tar"):
        photos = data.read_photos(source, names)
        assert photos.shape == (2, 224, 224, 3)
        assert photos[:, 0, 0].tolist() == [[255, 0, 0], [0, 0, 255]]
        with pytest.raises(SystemExit, match=r"missing\.png"):
            data.read_photos(source, [*names, "missing.png"])


WIDTH, CHANNEL = 24, 4
STAGES = ((2, 4, 1, 2), (1, 4, 1, 1), (1, 4, 3, 2), (1, 4, 4, 2), (1, 4, 3, 1), (1, 4, 4, 1))  # a stem and 16 blocks
CONFIG = replace(
    CONV, image_size=224, vision_width=WIDTH, conv_stages=STAGES, text_width=16, text_layers=1, embed_dim=16
)


def write_teacher(path: Path) -> Path:
    """MobileNetV2's 52 convolutions, random and thin; blocks end in as many channels as the student's."""
    rng = np.random.default_rng(0)
    shapes = [(6, 3, 3), (6, 1, 3), (CHANNEL, 6, 1)]
    for _ in range(16):
        shapes += [(8, CHANNEL, 1), (8, 1, 3), (CHANNEL, 8, 1)]
    shapes.append((WIDTH, CHANNEL, 1))
    arrays = {}
    for i, (out, into, side) in enumerate(shapes):
        arrays[f"{i}.w"] = rng.normal(0, (2 / into / side**2) ** 0.5, (out, into, side, side)).astype(np.float32)
        arrays[f"{i}.b"] = rng.normal(0, 0.1, out).astype(np.float32)
    np.savez(path, **arrays)
    return path


def test_teacher_is_centred_as_the_student(tmp_path: Path) -> None:
    """Same positive weights everywhere: place i of the student's grid is 32 i + 16 in the doubled picture."""
    with np.load(write_teacher(tmp_path / "t.npz")) as arrays:
        even = {n: a * 0 + (0 if n.endswith("b") else 1 / a[0].size) for n, a in arrays.items()}
    np.savez(tmp_path / "even.npz", **even)
    teacher = Teacher(tmp_path / "even.npz", torch.float64)
    for blocks, stride in ((16, 32), (12, 16)):
        place = 640 // stride
        flat = torch.full((1, 3, 1280, 64), 1e-3, dtype=torch.float64)  # so little that nothing is cut at 6
        rows = flat * torch.arange(1280, dtype=torch.float64)[:, None] / 1280
        base, moved = (teacher.activations(picture, blocks)[-1][0, 0, place, 1] for picture in (flat, rows))
        # The response to rows that grow by one per pixel is the mean of the rows that the window holds.
        assert float(moved / base * 1280) == pytest.approx(stride * place + stride // 2, abs=1e-6)


# -- runs


class Stopped(Exception):
    pass


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher, twelve photos, annotations, a configuration and the cache of the teacher's features."""
    folder = tmp_path_factory.mktemp("project")
    write_teacher(folder / "teacher.npz")
    (folder / "photos").mkdir()
    rows = []
    for n, picture in enumerate(random_pictures(12, 64)):
        Image.fromarray(picture).save(folder / "photos" / f"{n}.png")
        captions = [f"a {colour} dog number {n}" for colour in ("red", "blue", "green", "black", "white")]
        rows.append({"image": f"{n}.png", "caption": captions[: 5 - n % 2]})
    (folder / "train.json").write_text(json.dumps(rows))
    (folder / "config.json").write_text(CONFIG.to_json())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.data.WIDTH", WIDTH)
        teacher = Teacher(folder / "teacher.npz")
        data.build_cache(folder / "photos", folder / "train.json", teacher, folder / "cache")
    return folder


@pytest.fixture(autouse=True)
def small(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "CONFIG", project / "config.json")
    monkeypatch.setattr(train, "EVERY", 2)
    monkeypatch.setattr(train, "WARMUP", 2)
    monkeypatch.setattr("training.data.WIDTH", WIDTH)


def phases(steps: tuple[int, int, int, int]) -> tuple[Phase, ...]:
    return (
        Phase("blocks", steps[0], pictures=2, size=64, rate=0, trunk_rate=3e-3),
        Phase("distil", steps[1], pictures=2, size=64, rate=0, trunk_rate=1e-3),
        Phase("head", steps[2], pictures=4, size=64, rate=1.5e-3, trunk_rate=0),
        Phase("joint", steps[3], pictures=4, size=64, rate=5e-4, trunk_rate=5e-4),
    )


def go(project: Path, run: Path, steps: tuple[int, int, int, int], bf16: bool = False) -> Path:
    run.mkdir(exist_ok=True)
    if not (run / "cache").exists():
        (run / "cache").mkdir()
        for file in (project / "cache").iterdir():  # what comes of the student is each run's own
            (run / "cache" / file.name).symlink_to(file)
    args = argparse.Namespace(
        photos=project / "photos",
        annotations=project / "train.json",
        teacher=project / "teacher.npz",
        run=run,
        seed=0,
        device="cpu",
        bf16=bf16,
    )
    return train.train(args, phases(steps))


STEPS = (3, 3, 5, 5)


@pytest.fixture(scope="module")
def finished(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody stopped."""
    run = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "CONFIG", project / "config.json")
        patch.setattr(train, "EVERY", 2)
        patch.setattr(train, "WARMUP", 2)
        go(project, run, STEPS)
    return run


def same(a: Path, b: Path) -> bool:
    mine, other = load_file(a), load_file(b)
    return mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in mine)


def stop_at(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """After so many steps the next one raises Stopped, as if the process had been killed there."""
    left, original = [steps], Optimizer.step

    def step(self: Optimizer, factor: float, number: int) -> None:
        if not left[0]:
            raise Stopped
        left[0] -= 1
        original(self, factor, number)

    monkeypatch.setattr(Optimizer, "step", step)


# Blocks 0-2, distil 3-5, head 6-10, joint 11-15; a checkpoint after every second step of a phase, and at its end.
@pytest.mark.parametrize("steps", [1, 5, 9, 11, 14])
def test_stopped_run_goes_on_as_if_it_had_not(
    project: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, steps)
        with pytest.raises(Stopped):
            go(project, tmp_path / "run", STEPS)
    assert not (tmp_path / "run" / "weights.safetensors").exists()
    path = go(project, tmp_path / "run", STEPS)
    assert same(tmp_path / "run" / "state.safetensors", finished / "state.safetensors")
    assert same(path, finished / "weights.safetensors")


def test_bfloat16_run_goes_on_as_if_it_had_not(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The float32 weights behind the bfloat16 model are kept, not rounded."""
    whole = go(project, tmp_path / "whole", (3, 0, 0, 0), bf16=True)
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(Stopped):
            go(project, tmp_path / "run", (3, 0, 0, 0), bf16=True)
    saved = load_file(tmp_path / "run" / "state.safetensors")
    masters = [tensor for name, tensor in saved.items() if name.startswith("optimizer.master")]
    assert any(not torch.equal(tensor, tensor.bfloat16().float()) for tensor in masters)
    assert same(go(project, tmp_path / "run", (3, 0, 0, 0), bf16=True), whole)


def test_finished_run_started_again_is_the_same(project: Path, tmp_path: Path) -> None:
    path = go(project, tmp_path / "run", (1, 0, 0, 1))
    state = load_file(path)
    log = (tmp_path / "run" / "log.jsonl").read_text()
    again = load_file(go(project, tmp_path / "run", (1, 0, 0, 1)))
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())
    assert (tmp_path / "run" / "log.jsonl").read_text() == log


def test_every_phase_moves_its_own_weights(project: Path, tmp_path: Path) -> None:
    """After each phase alone: which weights are no longer those at the start."""
    start = load_file(go(project, tmp_path / "start", (0, 0, 0, 0)))
    moved = {}
    for i, name in enumerate(("blocks", "distil", "head", "joint")):
        state = load_file(go(project, tmp_path / name, tuple(2 * (i == k) for k in range(4))))  # type: ignore[arg-type]
        moved[name] = {n for n in start if not torch.equal(state[n], start[n])}
        assert all(tensor.isfinite().all() for tensor in state.values())
    trunk = {name for name in start if name.startswith("visual.trunk.")}
    early = {name for name in trunk if int(name.split(".")[2]) <= 12}
    assert moved["blocks"] == early
    assert moved["distil"] == trunk
    assert moved["head"]
    assert not moved["head"] & trunk
    heads = {"visual_proj.attn.in_proj_weight", "text_post.proj", "image_post.proj", "logit_bias", "logit_scale"}
    assert heads | {"visual.class_proj.weight", "token_embedding.weight"} <= moved["head"]
    assert moved["joint"] >= moved["head"] | early


def test_log_and_settings(finished: Path) -> None:
    rows = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    steps = [(row["phase"], row["step"]) for row in rows]
    assert steps == [("blocks", 2), ("blocks", 3), ("distil", 2), ("distil", 3)] + [
        (name, step) for name in ("head", "joint") for step in (2, 4, 5)
    ]
    assert {"photo_block_1", "mosaic_block_12"} <= set(rows[0])
    assert {"photo_conditioned", "mosaic_global", "mosaic_tokens", "mosaic_mean"} <= set(rows[-3])
    assert [phase["steps"] for phase in json.loads((finished / "settings.json").read_text())["phases"]] == list(STEPS)


def test_written_weights(finished: Path, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAIRSEARCH_CACHE", str(tmp_path / "cache"))
    path = finished / "weights.safetensors"
    seen = weights.seen_tokens(path)
    state = load_file(path)
    annotations = Annotations.read(project / "train.json")
    fewest = [caption for captions in annotations.captions for caption in captions[:4]]  # every photo's
    assert seen == frozenset(random_flair(CONV).tokenize(fewest).flatten().tolist())
    zero = (state["token_embedding.weight"] == 0).all(1)
    assert set((~zero).nonzero()[:, 0].tolist()) == seen
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    imported = weights.import_file(path, "trained")
    model = load_model("trained")
    assert imported.name == model.name == "trained"
    assert model.config == CONFIG
    assert model.unseen_words("a red dog and a zebra") == ["and", "zebra"]
    picture = torch.from_numpy(random_pictures(2, 224)).permute(0, 3, 1, 2) / 100 - 1
    assert model.get_logits(picture, model.tokenize(["a red dog", "a zebra"]))[0].isfinite().all()


# -- evaluation


def test_recall_by_sorting() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(30, 40)).astype(np.float32)
    right = rng.random((30, 40)) < 0.1
    right[rng.integers(30, size=40), np.arange(40)] = True  # every text has one at least
    found = evaluate.recall(scores, right)
    for k in evaluate.KS:
        hits = 0
        for text in range(40):
            best = sorted((-float(score), image) for image, score in enumerate(scores[:, text]))[:k]
            hits += any(right[image, text] for _, image in best)
        assert found[f"R@{k}"] == round(100 * hits / 40, 1)
    perfect = evaluate.recall(right.astype(np.float32), right)
    assert set(perfect.values()) == {100.0}


@pytest.mark.parametrize("side", [2, 3])
def test_mosaics_hold_every_photo_once(side: int) -> None:
    photos = np.zeros((20, 224, 224, 3), np.uint8) + (10 * np.arange(20, dtype=np.uint8))[:, None, None, None]
    captions = [[f"{n} {k}" for k in range(5)] for n in range(20)]
    pictures, texts, places = evaluate.mosaics(photos, captions, side, seed=0)
    count = 20 // side**2
    assert pictures.shape == (count, 224, 224, 3)
    assert len(texts) == len(places) == count * side**2
    photos_said = [int(text.split()[0]) for text in texts]
    assert len(set(photos_said)) == len(photos_said)
    assert sorted(map(tuple, places.tolist())) == [(m, c) for m in range(count) for c in range(side**2)]
    for photo, (mosaic, cell) in zip(photos_said, places, strict=True):
        row, column = divmod(int(cell), side)
        edges = [round(224 * k / side) for k in range(side + 1)]
        square = pictures[mosaic, edges[row] : edges[row + 1], edges[column] : edges[column + 1]]
        assert (square == 10 * photo).all()
    assert (pictures[0] == evaluate.mosaics(photos, captions, side, seed=0)[0][0]).all()
    assert texts != evaluate.mosaics(photos, captions, side, seed=1)[1]


def test_mosaics_of_photos_with_few_captions() -> None:
    photos, captions = np.zeros((4, 32, 32, 3), np.uint8), [["one"], ["two"], ["three"], ["four"]]
    _, texts, _ = evaluate.mosaics(photos, captions, 2, seed=0)
    assert sorted(texts) == ["four", "one", "three", "two"]


@pytest.mark.parametrize("side", [2, 3])
def test_right_cell_pixel_by_pixel(side: int) -> None:
    """Each patch's attention spread over its 16 x 16 pixels, summed over each cell's pixels."""
    rng = np.random.default_rng(side)
    texts = 3 * side**2
    attention = rng.random((3, texts, 196)).astype(np.float32) ** 8
    places = np.array([divmod(i, side**2) for i in range(texts)])
    edges = [round(224 * k / side) for k in range(side + 1)]
    hits = 0
    for text, (mosaic, cell) in enumerate(places):
        pixels = np.kron(attention[mosaic, text].reshape(14, 14), np.ones((16, 16)))
        mass = [
            pixels[edges[r] : edges[r + 1], edges[c] : edges[c + 1]].sum() for r in range(side) for c in range(side)
        ]
        hits += int(np.argmax(mass) == cell)
    assert evaluate.right_cell(attention, places, side) == round(100 * hits / texts, 1)
    pointed = np.zeros((3, texts, 14, 14), np.float32)
    for text, (mosaic, cell) in enumerate(places):
        row, column = divmod(int(cell), side)
        pointed[mosaic, text, (2 * row + 1) * 7 // side, (2 * column + 1) * 7 // side] = 1
    assert evaluate.right_cell(pointed.reshape(3, texts, 196), places, side) == 100


def test_evaluation_of_a_model_by_brute_force(tmp_path: Path) -> None:
    model = random_flair(replace(CONV, image_size=64))
    photos = random_pictures(9, 64)
    names = [[f"photo {n} in {word}" for word in ("red", "blue", "green", "black", "white")] for n in range(9)]
    captions = [names[n][k] for n in range(9) for k in range(5)]
    full, whole, attention = evaluate.score_all(model, photos, captions)
    assert (full.shape, whole.shape, attention.shape) == ((9, 45), (9, 45), (9, 45, 16))
    for i, j in ((0, 0), (8, 44), (3, 17)):
        picture, text = model.preprocess(Image.fromarray(photos[i]))[None], model.tokenize([captions[j]])
        scale, bias = model.towers.logit_scale.exp(), model.towers.logit_bias
        assert float(scale * full[i, j] + bias) == pytest.approx(float(model.get_logits(picture, text)[0]), abs=1e-3)
        assert float(scale * whole[i, j]) == pytest.approx(float(model.get_logits_as_clip(picture, text)[0]), abs=1e-3)
    figures = evaluate.evaluate(model, photos, Annotations([""] * 9, names))
    owner = np.arange(45) // 5
    ranks = [int((full[:, t] > full[owner[t], t]).sum()) for t in range(45)]
    assert figures["photos"]["full"] == {f"R@{k}": round(100 * np.mean([r < k for r in ranks]), 1) for k in (1, 5, 10)}
    assert set(figures) == {"photos", "mosaics 2x2", "mosaics 3x3"}
    assert len(evaluate.table(figures).splitlines()) == 2 + 6


def test_a_runs_weights_open_where_they_lie(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAIRSEARCH_CACHE", str(tmp_path / "cache"))
    model = evaluate.open_model(str(finished / "weights.safetensors"))
    assert isinstance(model, FLAIR)
    assert model.config == ModelConfig.from_json(CONFIG.to_json())
    assert not (tmp_path / "cache").exists()
