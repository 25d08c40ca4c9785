"""`flairsearch eval` as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flairsearch.engine import Engine
from flairsearch.model.flair import load_model
from tests.support.command import Done, RunCommand, settle, shorten_bank
from tests.support.random_flair import SMALL, random_flair, random_pictures, save_flair

CAPTIONS = [["a dog", "a red ball"], ["two men on a bench"], ["snow", "a dog", "a hill"], ["a boat"]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make four annotated photos, twice as wide as high, a small model, and an index of the photos."""
    work = tmp_path_factory.mktemp("eval") / "work"
    (work / "images").mkdir(parents=True)
    pictures = random_pictures(8, 48).reshape(4, 2, 48, 48, 3)
    rows = []
    for i, (pair, captions) in enumerate(zip(pictures, CAPTIONS, strict=True)):
        Image.fromarray(np.concatenate(list(pair), 1)).save(work / "images" / f"{i}.png")
        rows.append({"image": f"images/{i}.png", "caption": captions})
    (work / "val.json").write_text(json.dumps(rows), encoding="utf-8")
    save_flair(random_flair(), work / "small.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        settle(work, patch)
        with Engine.open("default", "small.safetensors", device="cpu") as engine:
            engine.add("images")
    return work


@pytest.fixture
def evaluate(made: Path, run: RunCommand, monkeypatch: pytest.MonkeyPatch) -> RunCommand:
    """Return a function that runs `flairsearch eval ARGUMENTS` in the folder of the photos."""
    settle(made, monkeypatch)
    shorten_bank(monkeypatch)
    return lambda *arguments: run("eval", *arguments)


def lines(done: Done) -> list[dict[str, object]]:
    assert done.code == 0
    return [json.loads(line) for line in done.out.splitlines()]


def test_annotated_photos(evaluate: RunCommand) -> None:
    done = evaluate("val.json", "--model", "small.safetensors", "--rerank", 2, "--topk-texts-per-image", 3)
    assert done.code == 0
    assert done.err == "small, 4 views, 7 texts\n"
    rows = done.out.splitlines()
    assert rows[0].split() == ["mode", "R@1", "R@5", "R@10", "mean", "rank", "median", "rank"]
    modes = ["full", "global", "rerank 2 views a text", "top 3 texts an image"]
    expected = [(mode, direction) for mode in modes for direction in ("text to image", "image to text")]
    for row, (mode, direction) in zip(rows[1:9], expected, strict=True):
        assert row.startswith(f"{mode} ")
        assert f" {direction} " in row
    assert "100.0%" in rows[1]
    assert rows[9] == ""
    assert rows[10].split("  ")[0] == "prefilter"
    assert [row.split()[:4] for row in rows[11:15]] == [
        [name, "top", n, "100.0%"] for name in ("global", "fitted") for n in ("10", "100")
    ]


def test_the_published_calls_give_the_same_ranks(evaluate: RunCommand, made: Path) -> None:
    """The default is the centre crop, so ranks equal those of get_logits over the reference's preprocessing."""
    found = lines(evaluate("val.json", "--model", "small.safetensors", "--json"))
    model = load_model(made / "small.safetensors")
    texts = [caption for captions in CAPTIONS for caption in captions]
    owner = [i for i, captions in enumerate(CAPTIONS) for _ in captions]
    image = torch.stack([model.preprocess(Image.open(made / "images" / f"{i}.png")) for i in range(4)])
    with torch.inference_mode():
        full, global_scores = (
            model.get_logits(image, model.tokenize(texts))[0],
            model.get_logits_as_clip(image, model.tokenize(texts))[0],
        )
    for row, scores in ((found[0], full), (found[2], global_scores)):
        ranks = [int((scores[:, j] > scores[i, j]).sum()) for j, i in enumerate(owner)]
        assert row["direction"] == "text to image"
        assert row["mean_rank"] == pytest.approx(np.mean(ranks) + 1)
        assert row["recall"]["1"] == pytest.approx(np.mean([rank < 1 for rank in ranks]), abs=1e-6)


def test_a_model_that_ranks_by_the_sum(evaluate: RunCommand, made: Path) -> None:
    """The sum of both cosines is the first mode; the other modes equal those of a model with the same weights."""
    save_flair(random_flair(replace(SMALL, score="sum")), made / "sum.safetensors")
    found = lines(evaluate("val.json", "--model", "sum.safetensors", "--rerank", 4, "--json"))
    plain = lines(evaluate("val.json", "--model", "small.safetensors", "--json"))
    assert [row["mode"] for row in found[:8:2]] == ["sum", "full", "global", "rerank 4 views a text"]
    assert found[2:6] == plain[:4]
    assert [{**row, "mode": ""} for row in found[:2]] == [{**row, "mode": ""} for row in found[6:8]]
    model = load_model(made / "sum.safetensors")
    texts = [caption for captions in CAPTIONS for caption in captions]
    owner = [i for i, captions in enumerate(CAPTIONS) for _ in captions]
    image = torch.stack([model.preprocess(Image.open(made / "images" / f"{i}.png")) for i in range(4)])
    with torch.inference_mode():
        scores = sum(
            get_scores(image, model.tokenize(texts))[0] for get_scores in (model.get_logits, model.get_logits_as_clip)
        )
    ranks = [int((scores[:, j] > scores[i, j]).sum()) for j, i in enumerate(owner)]
    assert found[0]["mean_rank"] == pytest.approx(np.mean(ranks) + 1)
    assert found[0]["recall"]["1"] == pytest.approx(np.mean([rank < 1 for rank in ranks]), abs=1e-6)


def test_one_label_per_line(evaluate: RunCommand, made: Path) -> None:
    """All photos of a label are relevant, and the best of them counts."""
    labels = ["dog", "boat", "dog", "boat"]
    rows = [{"image": f"images/{i}.png", "label": label} for i, label in enumerate(labels)]
    (made / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = evaluate("labels.jsonl", "--model", "small.safetensors", "--json")
    assert done.err == "small, 4 views, 4 texts\n"
    found = lines(done)
    model = load_model(made / "small.safetensors")
    image = torch.stack([model.preprocess(Image.open(made / "images" / f"{i}.png")) for i in range(4)])
    with torch.inference_mode():
        scores = model.get_logits(image, model.tokenize(labels))[0]
    ranks = []
    for j, label in enumerate(labels):
        best = max(float(scores[i, j]) for i in range(4) if labels[i] == label)
        ranks.append(int((scores[:, j] > best).sum()))
    assert found[0]["mean_rank"] == pytest.approx(np.mean(ranks) + 1)
    assert evaluate("labels.jsonl", "--model", "small.safetensors", "--json", "--format", "labelled").out == done.out


def test_json_lines(evaluate: RunCommand) -> None:
    found = lines(evaluate("val.json", "--photos", ".", "--views", "squash", "--model", "small.safetensors", "--json"))
    assert len(found) == 4 + 4
    for row in found[:4]:
        assert list(row) == ["mode", "direction", "recall", "mean_rank", "median_rank"]
        assert list(row["recall"]) == ["1", "5", "10"]
    for row, name, top in zip(found[4:], ("global", "global", "fitted", "fitted"), (10, 100, 10, 100), strict=True):
        assert (row["prefilter"], row["top"]) == (name, top)
        assert row["shortlists"][0] == {"shortlist": "50", "views": 4, "recall": 1.0}
        assert row["shortlists"][-1]["shortlist"] == "10%"
    squashed = lines(evaluate("val.json", "--model", "small.safetensors", "--json"))
    assert squashed != found


@pytest.mark.slow
def test_an_index_with_the_whole_bank(made: Path, run: RunCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(made, monkeypatch)
    assert [row["prefilter"] for row in lines(run("eval", "--json"))] == ["global", "global", "fitted", "fitted"]


def test_an_index(evaluate: RunCommand) -> None:
    found = lines(evaluate("--json"))
    assert [(row["prefilter"], row["top"]) for row in found] == [
        (name, top) for name in ("global", "fitted") for top in (10, 100)
    ]
    done = evaluate("--views", 3, "--count", 12)
    assert done.code == 0
    assert done.err.splitlines() == ["note: 3 views of 4, evenly spaced", "small, 3 views, 12 texts"]
    assert len(done.out.splitlines()) == 6


def test_codecs(evaluate: RunCommand) -> None:
    codecs = ["fp16", "int8", "q4", "q2", "q1"]
    done = evaluate("--codecs")
    assert done.code == 0
    assert [row.split()[0] for row in done.out.splitlines()[1:] if row] == codecs
    assert done.err.startswith("small, 4 views, ")
    found = lines(evaluate("val.json", "--codecs", "--json", "--model", "small.safetensors", "--mosaics", 6))
    assert [row["codec"] for row in found] == codecs
    assert set(found[0]["recall"]) == {"1", "5", "10"}
    assert found[0]["difference"] == [0, 0]


def test_mosaics(evaluate: RunCommand) -> None:
    done = evaluate("val.json", "--mosaics", 5, "--model", "small.safetensors")
    assert (done.code, done.err) == (0, "small, 5 views, 7 texts\n")


USAGE = {
    "options of annotations": ("--photos", "."),
    "mosaics of an index": ("--mosaics", 3),
    "rerank of an index": ("--rerank", 3),
    "views of photos": ("val.json", "--views", "5"),
    "views of an index": ("--views", "center"),
    "no views": ("--views", "0"),
    "codecs and more": ("val.json", "--codecs", "--rerank", 5),
    "no file": ("gone.json",),
    "a picture": ("images/0.png",),
    "format": ("val.json", "--format", "xml"),
    "another format": ("val.json", "--format", "coco"),
    "photos elsewhere": ("val.json", "--photos", "images"),
    "device": ("val.json", "--device", "abacus"),
}


def test_usage_errors_give_one_line(evaluate: RunCommand, subtests: pytest.Subtests) -> None:
    for name, arguments in USAGE.items():
        with subtests.test(name):
            done = evaluate(*arguments)
            assert (done.code, done.out) == (2, "")
            assert " - " in done.message


def test_numbers_must_be_positive(evaluate: RunCommand) -> None:
    for option in ("--rerank", "--topk-texts-per-image", "--count"):
        assert evaluate("val.json", option, 0).code == 2


def test_no_index(evaluate: RunCommand) -> None:
    done = evaluate("--index", "./new")
    assert (done.code, done.out) == (1, "")
    assert "no index at" in done.message


def test_damaged_photo(evaluate: RunCommand, made: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"no picture")
    (tmp_path / "v.json").write_text('[{"image": "x.jpg", "caption": ["a"]}]')
    done = evaluate(tmp_path / "v.json", "--model", "small.safetensors")
    assert (done.code, done.out) == (2, "")
    assert "x.jpg cannot be used (not a picture in a known format) - " in done.err.splitlines()[-1]


def test_help_loads_nothing_heavy() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "flairsearch", "eval", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "ANNOTATIONS" in done.stdout
    loaded = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "typer" in loaded
    assert not loaded & {"torch", "open_clip", "faiss", "sqlite3", "PIL", "numpy", "huggingface_hub", "safetensors"}
