"""`flairsearch demo` with the sample photos of the package and with other photos."""

from __future__ import annotations

import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
from PIL import Image

from flairsearch.cli.samples import QUERIES, copy_samples
from tests.support.command import RunCommand, settle
from tests.support.fake import paint

SAMPLES = Path(str(resources.files("flairsearch.cli") / "sample_photos"))
PHOTOS = ["astronaut.png", "camera.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg", "rocket.jpg"]


def test_samples_are_the_packages_photos(tmp_path: Path) -> None:
    """Files are copied byte by byte, and no other file is made."""
    assert copy_samples(tmp_path / "some" / "photos") == tmp_path / "some" / "photos"
    assert sorted(path.name for path in (tmp_path / "some" / "photos").iterdir()) == PHOTOS
    for name in PHOTOS:
        assert (tmp_path / "some" / "photos" / name).read_bytes() == (SAMPLES / name).read_bytes()
        with Image.open(tmp_path / "some" / "photos" / name) as photo:
            photo.load()
            assert min(photo.size) >= 300


def test_samples_are_copied_again_and_other_files_left_alone(tmp_path: Path) -> None:
    copy_samples(tmp_path)
    (tmp_path / "coffee.png").write_bytes(b"cut")
    (tmp_path / "rocket.jpg").unlink()
    (tmp_path / "mine.jpg").write_bytes(b"mine")
    copy_samples(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*PHOTOS, "mine.jpg"])
    assert (tmp_path / "coffee.png").read_bytes() == (SAMPLES / "coffee.png").read_bytes()
    assert (tmp_path / "mine.jpg").read_bytes() == b"mine"


def test_each_sample_has_its_licence() -> None:
    rows = [line.split("|") for line in (SAMPLES / "LICENCES.md").read_text(encoding="utf-8").splitlines()]
    stated = {row[1].strip(): row[3].strip() for row in rows if len(row) == 5}
    assert all("public domain" in stated[name] or stated[name] == "CC0" for name in PHOTOS)
    assert sorted(path.name for path in SAMPLES.iterdir()) == sorted([*PHOTOS, "LICENCES.md"])


def test_samples_need_no_other_package(tmp_path: Path) -> None:
    """The samples are files of this package: no other package has to be installed."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('skimage', 'sklearn', 'numpy', 'PIL')))\n"
        "from pathlib import Path; from flairsearch.cli.samples import copy_samples; copy_samples(Path(sys.argv[1]))"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "x"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list((tmp_path / "x").iterdir())) == 6


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "work").mkdir()
    settle(tmp_path / "work", monkeypatch)
    return tmp_path / "work"


def check(out: str, folder: str, overlay: Path, hits: int) -> None:
    """Check that commands are printed as they could be typed, and that each text has its pictures."""
    commands = [line for line in out.splitlines() if line.startswith("$ ")]
    assert commands[0] == f"$ flairsearch index {folder}"
    assert [line.split('"')[1] for line in commands[1:]] == list(QUERIES)
    assert len(QUERIES) == len(set(QUERIES)) == 3
    assert sorted(path.name for path in overlay.iterdir()) == sorted(text.replace(" ", "-") for text in QUERIES)
    for line, text in zip(commands[1:], QUERIES, strict=True):
        pictures = overlay / text.replace(" ", "-")
        assert line.endswith(f"-k 3 --overlay {pictures}")
        assert [path.name[:3] for path in sorted(pictures.iterdir())] == ["01-", "02-", "03-"][:hits]


@pytest.mark.slow
def test_the_demo_from_photos_to_pictures(work: Path, run: RunCommand) -> None:
    done = run("demo")
    assert done.code == 0, done.err
    check(done.out, "demo/photos", Path("demo/overlay"), 3)
    assert "6 added" in done.err
    assert "serve --open --index" in done.err.splitlines()[-1]
    assert sorted(path.name for path in (work / "demo").iterdir()) == ["index", "overlay", "photos"]


@pytest.mark.slow
def test_the_demo_of_other_photos(work: Path, run: RunCommand) -> None:
    """Other photos are indexed in their folder, in an index of their own."""
    for colour in ("red", "blue"):
        paint(work / "mine" / f"{colour}.png", [], colour)
    done = run("demo", "--photos", "mine", "--out", "tried")
    assert done.code == 0, done.err
    check(done.out, "mine", Path("tried/own-overlay"), 2)
    assert sorted(path.name for path in (work / "tried").iterdir()) == ["own-index", "own-overlay"]
    assert sorted(path.name for path in (work / "mine").iterdir()) == ["blue.png", "red.png"]
