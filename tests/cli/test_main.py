"""The command line, as a user meets it: in a process of its own where it matters, else in this one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from flairsearch.cli.main import VERBS
from flairsearch.engine import Engine
from flairsearch.model import checkpoints
from tests.support.command import RunCommand, settle
from tests.support.fake import exif_of, paint, paint_red
from tests.support.random_flair import random_flair, save_flair


def make_home(folder: Path) -> Path:
    """A working folder with photos, a broken file and a small model."""
    work = folder / "work"
    for area in (3, 30, 64):
        paint_red(work / "photos" / f"{area}.png", area)
    dated = exif_of({0x9003: "2001:05:17 14:00:00"})
    paint(work / "photos" / "a[red] b.png", [("blue", (0, 0, 20, 20))], size=(90, 60), exif=dated)
    (work / "photos" / "broken.jpg").write_bytes(b"no picture")
    save_flair(random_flair(), work / "small.safetensors")
    return work


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    work = make_home(tmp_path)
    settle(work, monkeypatch)
    return work


@pytest.fixture(scope="module")
def made_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with its index, for commands that change nothing."""
    work = make_home(tmp_path_factory.mktemp("home"))
    with pytest.MonkeyPatch.context() as patch:
        settle(work, patch)
        with Engine.open("default", "small.safetensors", device="cpu") as engine:
            engine.add("photos")
    return work


@pytest.fixture
def indexed(made_home: Path, run: RunCommand, monkeypatch: pytest.MonkeyPatch) -> RunCommand:
    """`run` in a working folder whose photos and index the commands leave alone."""
    settle(made_home, monkeypatch)
    return run


def test_index_then_query(home: Path, run: RunCommand) -> None:
    done = run("index", "photos", "--model", "small.safetensors")
    assert (done.code, done.out) == (0, "")
    assert "4 added" in done.err
    assert "broken.jpg: not a picture" in done.err
    assert "4 unchanged" in run("index").err
    done = run("query", "a red ball", "-k", "3")
    assert (done.code, done.err) == (0, "")
    assert sum(".png" in line for line in done.out.splitlines()) == 3
    assert "photos/a[red] b.png" in run("query", "a red ball").out
    (home / "photos" / "30.png").rename(home / "30.png")  # The others are shown although this photo is gone.
    done = run("query", "a red ball", "--paths", "--overlay", "again")
    assert done.code == 0
    assert len(done.out.splitlines()) == 4
    assert len(list((home / "again").iterdir())) == 3
    assert "no overlay for" in done.err
    assert "4 photos removed" in run("forget", "photos").err
    assert (home / "photos" / "3.png").exists()
    done = run("query", "a red ball")
    assert (done.code, done.out) == (0, "")
    assert len(done.err.splitlines()) == 1


FIELDS = ["rank", "id", "path", "score", "score_global", "logit", "width_px", "height_px", "date", "regions"]
FIELDS += ["phrases", "weakest"]


def json_lines(run: RunCommand, *arguments: object) -> list[dict[str, Any]]:
    done = run("query", *arguments, "--json")
    assert (done.code, done.err) == (0, "")
    return [json.loads(line) for line in done.out.splitlines()]


def test_several_texts_are_phrases(indexed: RunCommand) -> None:
    """A photo's score is the mean of what each text alone gives it."""
    texts = ("a red ball", "something blue")
    alone = [{line["path"]: line["score"] for line in json_lines(indexed, text)} for text in texts]
    lines = json_lines(indexed, *texts)
    assert len(lines) == 4
    for line in lines:
        scores = [one[line["path"]] for one in alone]
        assert [phrase["text"] for phrase in line["phrases"]] == list(texts)
        assert [phrase["score"] for phrase in line["phrases"]] == pytest.approx(scores, abs=1e-5)
        assert line["score"] == pytest.approx(sum(scores) / 2, abs=1e-5)
        assert line["weakest"] == texts[scores.index(min(scores))]
        assert line["regions"][:2] == [phrase["regions"][0] for phrase in line["phrases"]]
    table = indexed("query", *texts).out
    assert table.count("a red ball") == table.count("something blue") == 4
    assert table.count("weakest") == 4
    shown = json.loads(indexed("show", lines[0]["path"], *texts, "--out", "two.png", "--heat").out)
    assert shown == {**lines[0], "rank": 1}


def test_an_image_example(indexed: RunCommand, made_home: Path) -> None:
    """An indexed photo finds itself; beside a text, its weight counts."""
    photo = made_home / "photos" / "30.png"
    (line,) = json_lines(indexed, "--image", photo, "-k", "1")
    assert line["phrases"][0]["text"] == "30.png"
    part = json_lines(indexed, "--image", photo, "--box", "0,0,64,24", "a red ball", "--image-weight", "3")
    assert len(part) == 4
    for line in part:
        text, picture = line["phrases"]
        assert (text["text"], picture["text"]) == ("a red ball", "30.png")
        assert line["score"] == pytest.approx((text["score"] + 3 * picture["score"]) / 4, abs=1e-5)
    whole = {line["path"]: line["phrases"][0]["score"] for line in json_lines(indexed, "--image", photo)}
    assert any(line["phrases"][1]["score"] != pytest.approx(whole[line["path"]], abs=1e-4) for line in part)


@pytest.mark.parametrize("positions", [("left",), ("right",), ("top", "right"), ("center",)])
def test_positions(indexed: RunCommand, positions: tuple[str, ...]) -> None:
    options = [part for position in positions for part in ("--position", position)]
    everything = json_lines(indexed, "something blue")
    done = indexed("query", "something blue", "--min-area", "1%", *options, "--json")
    assert done.code == 0
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert bool(lines) == (not done.err)
    for line in lines:
        (whole,) = (one for one in everything if one["path"] == line["path"])
        assert line["score"] == whole["score"]
        assert all(region in whole["regions"] for region in line["regions"])
        assert all(_is_there(region["box"], line, positions) for region in line["regions"])
    kept = {line["path"] for line in lines}
    for line in everything:
        there = any(_is_there(region["box"], line, positions) for region in line["regions"])
        assert (line["path"] in kept) == there


def _is_there(box: Sequence[int], line: dict[str, Any], positions: tuple[str, ...]) -> bool:
    x, y = (box[0] + box[2]) / 2 / line["width_px"], (box[1] + box[3]) / 2 / line["height_px"]
    middle = max(abs(x - 0.5), abs(y - 0.5)) <= 0.25
    sides = {"left": x < 0.5, "right": x > 0.5, "top": y < 0.5, "bottom": y > 0.5, "center": middle}
    return all(sides[position] for position in positions)


def test_conditions_that_no_photo_meets(indexed: RunCommand) -> None:
    done = indexed("query", "a red ball", "--position", "left", "--min-area", "100%", "--min-score", "2")
    assert (done.code, done.out) == (0, "")
    assert done.err == "no photo to show: --exclude, --position, --min-area or --min-score hide all\n"
    done = indexed("query", "a red ball", "--exclude", "blue", "--min-score", "2", "--extension", "png")
    conditions = "--exclude, --position, --min-area or --min-score"
    assert done.err == f"no photo to show: {conditions} hide all within the filter: --extension png\n"
    done = indexed("query", "a red ball", "--min-score", "2")
    assert done.err == "no photo to show: --min-score hides all\n"
    done = indexed("query", "a red ball", "--offset", "1000")
    assert done.err == "no photo to show: no hit comes after the first 1,000\n"
    done = indexed("query", "a red ball", "--offset", "1000", "--extension", "png")
    assert done.err == "no photo to show: no hit within the filter comes after the first 1,000: --extension png\n"


def test_json_lines(indexed: RunCommand) -> None:
    lines = [
        json.loads(line) for line in indexed("query", "a red ball", "--json", "--shortlist", "all").out.splitlines()
    ]
    assert len(lines) == 4
    assert [line["rank"] for line in lines] == [1, 2, 3, 4]
    assert sorted((line["score"] for line in lines), reverse=True) == [line["score"] for line in lines]
    for line in lines:
        assert list(line) == FIELDS
        (phrase,) = line["phrases"]
        assert phrase == {"text": "a red ball", "score": line["score"], "regions": line["regions"]}
        assert line["regions"]
        assert line["weakest"] is None
        assert Image.open(line["path"]).size == (line["width_px"], line["height_px"])
        for region in line["regions"]:
            left, top, right, bottom = region["box"]
            assert 0 <= left < right <= line["width_px"]
            assert 0 <= top < bottom <= line["height_px"]
    paths = indexed("query", "a red ball", "--paths").out.splitlines()
    assert paths == [line["path"] for line in lines]
    limit = (lines[1]["score"] + lines[2]["score"]) / 2
    assert indexed("query", "a red ball", "--paths", "--min-score", limit).out.splitlines() == paths[:2]
    logit = indexed("query", "a red ball", "-k", "1", "--logits").out
    model = random_flair().towers
    shown = float(logit.splitlines()[1].split()[1])
    assert shown == pytest.approx(float(model.logit_scale.exp() * lines[0]["score"] + model.logit_bias), abs=2e-3)


FILTERS = {  # The options, and how many of four photos they leave.
    "all": ((), 4),
    "folder": (("--folder", "photos"), 4),
    "folder above": (("--folder", "."), 4),
    "home": (("--folder", "~/photos/"), 4),
    "camera's date": (("--until", "2001"), 1),
    "minute": (("--since", "2001-05-17T14:00", "--until", "2001-05-17T14:00"), 1),
    "file's date": (("--since", "2002"), 3),
    "pixels": (("--larger-than", "90x60"), 1),
    "bytes": (("--larger-than", "10"), 4),
    "kind": (("--extension", ".PNG"), 4),
    "kinds": (("--extension", "gif,png", "--extension", "jpg"), 4),
    "several": (("--folder", "photos", "--since", "2002", "--extension", "png", "--larger-than", "64x64"), 3),
}


def test_filters(
    indexed: RunCommand, made_home: Path, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    monkeypatch.setenv("HOME", str(made_home))
    for name, (options, count) in FILTERS.items():
        with subtests.test(name):
            done = indexed("query", "a red ball", "--paths", "-v", *options)
            assert (done.code, len(done.out.splitlines())) == (0, count)
            what = f"{count} of {count} views{' within the filter' if options else ''} ranked exactly (100.0%)"
            assert done.err.splitlines() == [what]
            assert "a[red] b.png" in done.out or name in ("file's date", "several")


def test_no_photo_within_the_filter(indexed: RunCommand) -> None:
    done = indexed(
        "query", "a red ball", "--since", "2999-05", "--extension", "png", "--extension", ".jpg", "--folder", "photos"
    )
    assert (done.code, done.out) == (0, "")
    words = "--folder photos --since 2999-05 --extension png,jpg"
    assert done.err == f"no photo to show: no indexed photo is within the filter: {words}\n"
    done = indexed("query", "a red ball", "--until", "2001", "--min-score", "2")
    assert (done.code, done.out) == (0, "")
    assert done.err == "no photo to show: --min-score hides all within the filter: --until 2001\n"
    done = indexed("query", "a red ball", "--until", "2001", "--min-score", "2", "--min-area", "1%")
    assert done.err.endswith("--min-score hide all within the filter: --until 2001\n")


def test_overlays(indexed: RunCommand, made_home: Path) -> None:
    done = indexed("query", "a red ball", "--paths", "-k", "2", "--overlay", "found")
    pictures = sorted((made_home / "found").iterdir())
    assert [picture.name[:3] for picture in pictures] == ["01-", "02-"]
    for path, picture in zip(done.out.splitlines(), pictures, strict=True):
        assert Path(path).stem in picture.name
        assert Image.open(picture).size == Image.open(path).size
    done = indexed("show", "photos/a[red] b.png", "blue", "--out", "blue.png")
    assert json.loads(done.out)["path"] == str(made_home / "photos" / "a[red] b.png")
    assert Image.open("blue.png").size == (90, 60)
    assert indexed("query", "a red ball", "--overlay", "small.safetensors").code == 1


def test_status_and_models(indexed: RunCommand, made_home: Path) -> None:
    out = indexed("status").out
    assert all(part in out for part in ("photos    4\n", "small", f"4 in {made_home / 'photos'}", "broken.jpg"))
    out = indexed("models", "list").out
    assert all(name in out for name in (checkpoints.BUNDLED, *checkpoints.PUBLISHED, "small"))
    assert not any(name in out for name in checkpoints.RETIRED)
    assert "again: " in indexed("models", "import", "small.safetensors", "--name", "again").out


def test_paths_for_xargs(indexed: RunCommand) -> None:
    """Paths are printed unchanged, each with a zero byte after it, and nothing else is."""
    paths = indexed("query", "a red ball", "--paths").out.splitlines()
    for more in ((), ("--json",), ("--paths", "--logits")):
        done = indexed("query", "a red ball", "-0", *more)
        assert (done.code, done.err) == (0, "")
        assert done.out == "".join(f"{path}\0" for path in paths)
    done = indexed("query", "a red ball", "-0", "--min-score", "2")
    assert (done.code, done.out) == (0, "")


def test_names_of_any_bytes_for_xargs(home: Path, run: RunCommand) -> None:
    """Programs read the exact names of files, with ends of lines, blanks and quotes in them."""
    names = [b"two\nlines.png", b" a 'b\" .png", "犬.png".encode(), b"-0.png", b"$HOME.png"]
    for number, name in enumerate(names):
        paint_red(home / "odd" / f"{number}.png", 5 * number + 3)
        os.rename(home / "odd" / f"{number}.png", os.path.join(os.fsencode(home), b"odd", name))
    assert run("index", "odd", "--index", "./odd-index", "--model", "small.safetensors").code == 0
    done = process("-m", "flairsearch", "query", "a red ball", "-0", "--index", "./odd-index", text=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.endswith(b"\0")
    found = done.stdout.split(b"\0")[:-1]
    assert sorted(found) == sorted(os.path.join(os.fsencode(home), b"odd", name) for name in names)
    assert all(os.path.exists(path) for path in found)
    script = f"'{sys.executable}' -m flairsearch query red -0 --index ./odd-index | xargs -0 -n 1 stat -c %s"
    piped = subprocess.run(["bash", "-o", "pipefail", "-c", script], capture_output=True, text=True, check=False)
    assert (piped.returncode, len(piped.stdout.splitlines())) == (0, len(names))


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """A function that waits for the program of the desktop, and returns what it was told to open."""
    script, noted = tmp_path / "bin" / "xdg-open", tmp_path / "opened"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> "{noted}.part" && mv "{noted}.part" "{noted}"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")

    def wait() -> list[str]:
        end = time.monotonic() + 5
        while not noted.exists() and time.monotonic() < end:
            time.sleep(0.02)
        return noted.read_text().splitlines()

    return wait


def test_the_best_photo_is_opened(indexed: RunCommand, opened: Callable[[], list[str]]) -> None:
    done = indexed("query", "a red ball", "--paths", "--open")
    assert (done.code, done.err) == (0, "")
    assert opened() == done.out.splitlines()[:1]


def test_the_best_photo_is_opened_as_it_is_drawn(
    indexed: RunCommand, made_home: Path, opened: Callable[[], list[str]]
) -> None:
    done = indexed("query", "a red ball", "--paths", "--open", "--overlay", "drawn", "-k", "2")
    assert done.code == 0
    (path,) = opened()
    assert Path(path).parent == Path("drawn")
    assert Path(path).name == f"01-{Path(done.out.splitlines()[0]).stem}.jpg"
    assert (made_home / path).is_file()


def test_nothing_is_opened_where_nothing_is_found(indexed: RunCommand, tmp_path: Path, opened: object) -> None:
    assert indexed("query", "a red ball", "--open", "--min-score", "2").code == 0
    time.sleep(0.3)
    assert not (tmp_path / "opened").exists()


def test_what_took_how_long(indexed: RunCommand) -> None:
    """One line on stderr names the stages, which take no longer than all together, and what computed the scores."""
    done = indexed("query", "a red ball", "--paths", "--timings", "-v")
    assert (done.code, len(done.out.splitlines())) == (0, 4)
    counted, line = done.err.splitlines()
    assert counted == "4 of 4 views ranked exactly (100.0%)"
    head, _, rest = line.partition(": ")
    assert head == "milliseconds"
    rest, _, backend = rest.rpartition("  ")
    assert backend == "(numpy on cpu)"
    parts = {part.rpartition(" ")[0].strip(): int(part.rpartition(" ")[2]) for part in rest.split("  ")}
    assert {"start", "open", "encode", "rank", "regions", "show", "in all"} <= set(parts)
    assert sum(taken for name, taken in parts.items() if name != "in all") <= parts["in all"] + len(parts)
    assert not indexed("query", "a red ball", "--paths").err


def test_a_cold_query_loads_nothing_heavy(made_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text needs only tokens, weights and kernels in numpy."""
    settle(made_home, monkeypatch)
    for options in (("--paths",), ("-0",), ("--json", "--min-area", "1%", "--extension", "png"), ("-v",)):
        done = process("-X", "importtime", "-m", "flairsearch", "query", "a red ball", *options)
        assert done.returncode == 0
        assert "png" in done.stdout
        loaded = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
        heavy = {"torch", "open_clip", "numba", "faiss", "PIL", "huggingface_hub", "ftfy", "fastapi"}
        assert not (heavy | {"filelock", "pydantic"}) & loaded
        assert ("rich" in loaded) == (options == ("-v",))


def test_exit_code_says_whether_anything_was_indexed(home: Path, run: RunCommand) -> None:
    (home / "bad").mkdir()
    (home / "bad" / "x.jpg").write_bytes(b"no picture")
    done = run("index", "bad", "--index", "./b", "--model", "small.safetensors")
    assert done.code == 1
    assert "x.jpg" in done.err
    paint_red(home / "bad" / "y.png", 5)
    assert run("index", "bad", "--index", "./b").code == 0


def segment_file(home: Path, kind: str = "tokens", index: str = "default") -> Path:
    (file,) = (home.parent / "indexes" / index / "segments").glob(f"*.{kind}")
    return file


def test_verify_finds_and_repairs(home: Path, run: RunCommand) -> None:
    run("index", "photos", "--model", "small.safetensors")
    done = run("verify")
    assert (done.code, done.out, done.err) == (0, "", "4 views, none damaged\n")
    paths = run("query", "a red ball", "--paths").out
    file = segment_file(home)
    data = file.read_bytes()
    broken = bytearray(data)
    broken[len(data) // 4 + 3] ^= 1
    file.write_bytes(broken)
    done = run("verify")
    (line,) = done.out.splitlines()
    view, path = line.split("\t")
    assert (done.code, done.err) == (1, "1 of 4 views are damaged - run flairsearch verify --repair\n")
    assert view == "view 2"
    assert Path(path).parent == home / "photos"
    done = run("verify", "--repair")
    assert (done.code, done.out) == (0, f"{line}\n")
    assert done.err == "1 of 1 damaged views encoded again\n"
    assert run("verify").code == 0
    assert run("query", "a red ball", "--paths").out == paths


def test_a_lost_segment_on_the_command_line(home: Path, run: RunCommand) -> None:
    run("index", "photos", "--model", "small.safetensors")
    file = segment_file(home)
    file.unlink()
    done = run("query", "a red ball")
    assert (done.code, done.out) == (0, "")
    assert f"warning: {file} is missing - run flairsearch verify --repair" in done.err.splitlines()
    assert done.err.splitlines()[-1] == "no photo to show: no part of the index can be read"
    last = run("query", "a red ball", "--extension", "png").err.splitlines()[-1]
    assert last == "no photo to show: no part of the index within the filter can be read: --extension png"
    assert "is damaged - run flairsearch verify --repair" in run("show", "photos/3.png", "red").message
    gone = home / "photos" / "3.png"
    gone.unlink()
    done = run("verify", "--repair")
    assert done.code == 1
    assert len(done.out.splitlines()) == 4
    assert done.err.splitlines() == [
        "3 of 4 damaged views encoded again",
        f"not repaired, the photo is gone or has changed: {gone}",
    ]
    run("index")
    done = run("verify")
    assert (done.code, done.err) == (0, "3 views, none damaged\n")
    assert len(run("query", "a red ball", "--paths").out.splitlines()) == 3


def test_compact_on_the_command_line(home: Path, run: RunCommand) -> None:
    run("index", "photos", "--model", "small.safetensors", "--codec", "fp16")
    assert "fp16" in run("status").out
    done = run("compact")
    assert (done.code, done.out) == (0, "")
    assert done.err.startswith("0 views rewritten; ")
    paths = run("query", "a red ball", "--paths").out
    size = segment_file(home).stat().st_size
    done = run("compact", "--codec", "int8")
    assert (done.code, done.out) == (0, "")
    assert done.err.startswith("4 views rewritten; ")
    assert segment_file(home).stat().st_size < 0.6 * size
    assert "int8" in run("status").out
    assert run("query", "a red ball", "--paths").out == paths
    done = run("index", "--codec", "fp16")
    assert done.code == 1
    assert "asked for fp16 - run flairsearch compact --codec fp16" in done.message
    assert "no token codec named 'int9'" in run("compact", "--codec", "int9").message
    assert run("index", "--codec", "int8").code == 0
    for codec in ("q4", "q2", "q1"):
        assert run("compact", "--codec", codec).err.startswith("4 views rewritten; ")
        assert run("compact", "--codec", codec).err.startswith("0 views rewritten; ")
        assert run("verify").code == 0
        assert len(run("query", "a red ball", "--paths").out.splitlines()) == 4
    (home / "photos" / "3.png").unlink()
    run("index")
    assert run("compact").err.startswith("3 views rewritten; ")


def test_rebuilding_keeps_the_codec_or_takes_a_new_one(home: Path, run: RunCommand) -> None:
    run("index", "photos", "--model", "small.safetensors", "--codec", "fp16")
    assert run("index", "--rebuild").code == 0
    assert "fp16" in run("status").out
    assert run("index", "--rebuild", "--codec", "int8").code == 0
    assert "int8" in run("status").out
    assert not (home.parent / "indexes" / "default.rebuilding").exists()


RETIRED = "flairsearch: the model flair-tiny is no longer part of flairsearch, flair-small is in its place - "
ASKING = {
    "query": ("query", "a red ball"),
    "a query as JSON": ("query", "a red ball", "--json"),
    "several phrases": ("query", "red", "blue", "--exclude", "green"),
    "a picture": ("query", "--image", "photos/3.png"),
    "by its name": ("query", "a red ball", "--model", "flair-tiny"),
    "show": ("show", "photos/3.png", "red"),
    "more photos": ("index", "more"),
    "anew with the same": ("index", "--rebuild", "--model", "flair-tiny"),
    "eval": ("eval",),
    "serve": ("serve", "--port", "0"),
}


@pytest.fixture
def of_a_retired_model(home: Path, run: RunCommand) -> Path:
    """An index as an earlier version left it: made with a model that came with it then."""
    run("index", "photos", "--model", "small.safetensors")
    file = home.parent / "indexes" / "default" / "index.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({**settings, "model": "flair-tiny"}))
    paint_red(home / "more" / "20.png", 20)
    return file.parent


def test_an_index_of_a_retired_model_says_what_to_do(of_a_retired_model: Path, run: RunCommand) -> None:
    """Commands that need the model end with one line and change nothing; the others work."""
    before = {file: file.read_bytes() for file in of_a_retired_model.rglob("segments/*")}
    assert "4 unchanged" in run("index").err
    for arguments in ASKING.values():
        done = run(*arguments)
        assert (done.code, done.out) == (1, "")
        assert done.message.startswith(RETIRED)
        assert done.message.endswith("flairsearch index --rebuild")
    done = run("status")
    assert (done.code, done.err) == (0, "")
    assert re.search(r"^model +flair-tiny \(weights ", done.out, re.MULTILINE)
    assert re.search(r"^photos +4$", done.out, re.MULTILINE)
    assert "4 views, none damaged" in run("verify").err
    assert run("forget", "photos/3.png").code == 0
    assert re.search(r"^photos +3$", run("status").out, re.MULTILINE)
    assert {file: file.read_bytes() for file in before} == before


def test_rebuilding_replaces_a_retired_model(of_a_retired_model: Path, run: RunCommand) -> None:
    """The default model takes its place, here the bundled one; folders and codec stay."""
    done = run("index", "--rebuild")
    assert done.code == 0
    assert "4 added" in done.err
    status = run("status").out
    assert re.search(rf"^model +{checkpoints.BUNDLED} \(weights ", status, re.MULTILINE)
    assert not any(name in status for name in checkpoints.RETIRED)
    assert len(run("query", "a red ball", "--paths").out.splitlines()) == 4
    assert json.loads((of_a_retired_model / "index.json").read_text())["codec"] == "q1"


def test_a_moved_folder_on_the_command_line(home: Path, run: RunCommand) -> None:
    run("index", "photos", "--model", "small.safetensors")
    (home / "photos").rename(home / "disk")
    done = run("index", "--move-root", "photos", "disk")
    assert (done.code, done.out) == (0, "")
    assert "4 unchanged" in done.err
    assert str(home / "disk") in run("status").out
    assert all(Path(path).parent == home / "disk" for path in run("query", "red", "--paths").out.splitlines())
    for old, new, code, what in (
        ("photos", "disk", 1, f"{home / 'photos'} is no folder of this index"),
        ("disk", "disk", 1, f"{home / 'disk'} is a folder of this index already"),
        ("disk", "elsewhere", 2, "elsewhere is not there"),
    ):
        done = run("index", "--move-root", old, new)
        assert done.code == code
        assert what in done.message
    assert run("index", "--move-root", "disk").code == 2
    assert "no index at" in run("index", "--move-root", "a", "b", "--index", "./new").message


USAGE = {
    "nothing to look for": ("query",),
    "nothing but conditions": ("query", "--exclude", "a", "--position", "left"),
    "several texts, one empty": ("query", "a", " ", "ball"),
    "empty not": ("query", "a", "--exclude", ""),
    "not not UTF-8": ("query", "a", "--exclude", "caf\udce9"),
    "no place": ("query", "a", "--position", "middle"),
    "a weight of nothing": ("query", "a", "--image-weight", "2"),
    "two places": ("query", "a", "--position", "left", "--position", "right"),
    "above and below": ("query", "a", "--position", "bottom", "--position", "center", "--position", "top"),
    "no share": ("query", "a", "--min-area", "much"),
    "share above 1": ("query", "a", "--min-area", "5"),
    "share below 0": ("query", "a", "--min-area", "-1%"),
    "share that is no number": ("query", "a", "--min-area", "nan"),
    "box without a picture": ("query", "a", "--box", "1,2,3,4"),
    "no box": ("query", "--image", "photos/3.png", "--box", "all"),
    "box of three": ("query", "--image", "photos/3.png", "--box", "1,2,3"),
    "box turned round": ("query", "--image", "photos/3.png", "--box", "30,2,3,40"),
    "box of nothing": ("query", "--image", "photos/3.png", "--box", "3,2,3,40"),
    "box below 0": ("query", "--image", "photos/3.png", "--box", "-3,2,3,40"),
    "box of halves": ("query", "--image", "photos/3.png", "--box", "0.5,2,3,40"),
    "box outside": ("query", "--image", "photos/3.png", "--box", "0,0,65,64"),
    "box far outside": ("query", "--image", "photos/3.png", "--box", "900,900,901,901"),
    "weight 0": ("query", "--image", "photos/3.png", "--image-weight", "0"),
    "weight below 0": ("query", "a", "--image", "photos/3.png", "--image-weight", "-1"),
    "weight that is no number": ("query", "a", "--image", "photos/3.png", "--image-weight", "nan"),
    "weight without end": ("query", "a", "--image", "photos/3.png", "--image-weight", "inf"),
    "show of nothing": ("show", "photos/3.png", " "),
    "since when": ("query", "a", "--since", "May"),
    "until when": ("query", "a", "--until", "2024-02-30"),
    "until before since": ("query", "a", "--since", "2024", "--until", "2023"),
    "no size": ("query", "a", "--larger-than", "2TB"),
    "no kind": ("query", "a", "--extension", "*"),
    "no folder": ("query", "a", "--folder", ""),
    "folder that is not indexed": ("query", "a", "--folder", "nowhere"),
    "folder beside": ("query", "a", "--folder", "photo"),
    "folder that is a photo": ("query", "a", "--folder", "photos/3.png"),
    "folder not UTF-8": ("query", "a", "--folder", "caf\udce9"),
    "empty text": ("query", " "),
    "bad shortlist": ("query", "a", "--shortlist", "some"),
    "shortlist 0": ("query", "a", "--shortlist", "0"),
    "k 0": ("query", "a", "-k", "0"),
    "not UTF-8": ("query", "a \udcff"),
    "device": ("query", "a", "--device", "abacus"),
    "missing folder": ("index", "nowhere"),
    "missing folder, no index": ("index", "nowhere", "--index", "./new"),
    "a file": ("index", "photos/3.png", "--index", "./new"),
    "nothing to index": ("index", "--index", "./new"),
    "missing folder to rebuild": ("index", "nowhere", "--rebuild", "--index", "./new"),
    "nothing to rebuild": ("index", "--rebuild", "--index", "./new"),
    "views": ("index", "photos", "--views", "round", "--index", "./new", "--model", "small"),
    "codec": ("index", "photos", "--codec", "q3", "--index", "./new", "--model", "small"),
    "codec of an index": ("index", "photos", "--codec", "q3"),
    "codec to compact": ("compact", "--codec", "q3"),
    "stranger": ("show", "small.safetensors", "a"),
    "forget a stranger": ("forget", "nowhere"),
    "index of an endless name": ("query", "a", "--index", "a" * 300),
    "show from one": ("show", "photos/3.png", "a", "--index", "a" * 300),
    "status of one": ("status", "--index", "a" * 300),
    "forget from one": ("forget", "photos", "--index", "a" * 300),
    "index into one": ("index", "photos", "--index", "./" + "a" * 300),
    "index into an endless path": ("index", "photos", "--rebuild", "--index", "./" + "ab/" * 3000),
}
ERRORS = {
    "no index": ("query", "a", "--index", "./new"),
    "missing picture": ("query", "--image", "photos/nothing.png"),
    "no picture": ("query", "--image", "photos/broken.jpg"),
    "folder as a picture": ("query", "a", "--image", "photos"),
    "model as a picture": ("query", "a", "--image", "small.safetensors", "--box", "1,2,3,4"),
    "no index to show": ("show", "photos/3.png", "a", "--index", "./new"),
    "no index to verify": ("verify", "--index", "./new"),
    "no index to compact": ("compact", "--index", "./new"),
    "no index to know": ("status", "--index", "new"),
    "no index to forget": ("forget", "photos", "--index", "./new"),
    "index is a file": ("query", "a", "--index", "./small.safetensors"),
    "index in a file": ("index", "photos", "--index", "./small.safetensors/x", "--model", "small"),
    "unknown model": ("index", "photos", "--index", "./new", "--model", "flair-huge"),
    "missing model": ("index", "photos", "--index", "./new", "--model", "no/such.pt"),
    "model of an unknown user": ("index", "photos", "--index", "./new", "--model", "~nobody-here/x.pt"),
    "another model": ("query", "a", "--model", checkpoints.BUNDLED),
    "a retired model": ("index", "photos", "--index", "./new", "--model", "flair-tiny"),
    "no model": ("models", "import", "photos/3.png"),
    "folder as a model": ("models", "import", "photos"),
    "unpublished": ("models", "pull", "flair-huge"),
}


def test_usage_errors_are_one_line(indexed: RunCommand, made_home: Path, subtests: pytest.Subtests) -> None:
    for name, arguments in USAGE.items():
        with subtests.test(name):
            done = indexed(*arguments)
            assert (done.code, done.out) == (2, "")
            assert done.message
            assert not list(made_home.glob("new*"))


def test_errors_are_one_line(indexed: RunCommand, made_home: Path, subtests: pytest.Subtests) -> None:
    for name, arguments in ERRORS.items():
        with subtests.test(name):
            done = indexed(*arguments)
            assert (done.code, done.out) == (1, "")
            assert " - " in done.message  # The line says what was found, and what to do.
            assert not (made_home / "new").exists()


def test_a_working_folder_that_is_gone(indexed: RunCommand, made_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that do not need it work, with whole paths; the others end with one line."""
    table, whole = indexed("query", "a red ball"), indexed("query", "a red ball", "--paths").out.splitlines()
    (made_home.parent / "gone").mkdir()
    monkeypatch.chdir(made_home.parent / "gone")
    (made_home.parent / "gone").rmdir()
    done = indexed("query", "a red ball")
    assert (done.code, done.err, len(done.out.splitlines())) == (0, "", len(table.out.splitlines()))
    assert [path for path in whole if path in done.out] == whole
    assert indexed("query", "a red ball", "--paths").out.splitlines() == whole
    assert str(made_home / "photos") in indexed("status").out
    for command in (("show", "3.png", "red"), ("forget", "3.png"), ("query", "red", "--index", "./some/index")):
        done = indexed(*command)
        assert (bool(done.code), done.out, bool(done.message)) == (True, "", True)
    assert "'./some/index' is no place for an index" in done.message


def test_typers_own_usage_errors(run: RunCommand) -> None:
    for arguments in (["--nothing"], ["show", "a"], ["query", "a", "-k", "many"], ["nonsense"], ["models", "nonsense"]):
        assert run(*arguments).code == 2


def process(*arguments: str, text: bool = True, **environment: str) -> subprocess.CompletedProcess[Any]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=text, env={**os.environ, **environment}, check=False)


HEAVY = {"torch", "open_clip", "faiss", "sqlite3", "PIL", "numpy", "huggingface_hub", "safetensors"}


@pytest.mark.parametrize("command", [[], ["index"], ["query"], ["show"], ["models"], ["models", "pull"]])
def test_help_loads_nothing_heavy(command: list[str]) -> None:
    done = process("-X", "importtime", "-m", "flairsearch", *command, "--help")
    assert done.returncode == 0
    assert "Usage:" in done.stdout
    loaded = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "typer" in loaded
    assert not HEAVY & loaded


def test_a_verb_does_not_load_the_others() -> None:
    """The options of a verb are built when it is used, so that a query through a server does not wait for others."""
    code = "import sys, atexit; from flairsearch.cli.main import main\n"
    code += "atexit.register(lambda: print(*sys.modules)); main()"
    loaded = re.findall(r"\bflairsearch\.cli\.(\w+)", process("-c", code, "query", "--help").stdout)
    assert {module for module, _ in VERBS.values()} & {*loaded} == {"query"}


def test_reader_that_goes_away_gets_no_traceback(indexed: RunCommand) -> None:
    script = f"set -o pipefail; '{sys.executable}' -m flairsearch status | true"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode != 0  # The pipe was closed before it was read.
    assert done.stderr == ""
