"""The folder in which the commands and blocks of the documents run: the sample photos, captions, boxes and indexes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flairsearch import Engine
from tests.support.command import shorten_bank


@pytest.fixture(scope="module")
def work_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working folder, with photos, captions and boxes; ~/Pictures has photos too."""
    folder = tmp_path_factory.mktemp("docs")
    work = folder / "work"
    (work / "indexes").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder / "home"))
        patch.setenv("FLAIRSEARCH_HOME", str(work / "indexes"))
        patch.setenv("FLAIRSEARCH_CACHE", str(folder / "cache"))
        patch.delenv("FLAIRSEARCH_TOKEN", raising=False)
        patch.delenv("FLAIRSEARCH_SERVER", raising=False)
        patch.setenv("COLUMNS", "200")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        patch.chdir(work)
        shorten_bank(patch)
        _write_files(work, folder / "home")
        yield work


def _write_files(work: Path, home: Path) -> None:
    from flairsearch.cli.samples import copy_samples
    from flairsearch.model.checkpoints import bundled_file

    photos, pictures = copy_samples(work / "photos"), home / "Pictures"
    shutil.copytree(photos, pictures)
    shutil.copy(photos / "chelsea.png", pictures / "dog.jpg")  # The format comes from the bytes, not from the name.
    for folder, name in (("2024", "coffee.png"), ("2024", "hubble_deep_field.jpg"), ("old", "rocket.jpg")):
        (pictures / folder).mkdir(exist_ok=True)
        shutil.copy(photos / name, pictures / folder / name)
    shutil.copytree(pictures / "2024", home / "Archive" / "2024")
    shutil.copy(bundled_file(), work / "flair-own.safetensors")
    captions = [{"image": path.name, "caption": [f"a {path.stem}"]} for path in sorted(photos.iterdir())]
    (work / "val.json").write_text(json.dumps(captions))
    box = {"label": "cat", "box": [100, 20, 400, 280]}
    (work / "boxes.jsonl").write_text(json.dumps({"image": "chelsea.png", "size": [451, 300], "boxes": [box]}))


@pytest.fixture(scope="module")
def place(work_folder: Path) -> Path:
    """The working folder, with two indexes: `default` of ~/Pictures, and `trips` of ~/Pictures/2024."""
    from flairsearch.model.checkpoints import BUNDLED

    pictures = work_folder.parent / "home" / "Pictures"
    for index, folder in (("default", pictures), ("trips", pictures / "2024")):
        with Engine.open(index, BUNDLED, device="cpu") as engine:
            engine.add(folder)
    return work_folder


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[str]:
    """The address of `flairsearch serve`, on a copy of the index of ~/Pictures."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    shutil.copytree(place / "indexes" / "default", place / "served")
    process = subprocess.Popen(
        [sys.executable, "-m", "flairsearch", "serve", "--index", "./served", "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        address = process.stderr.readline().strip()
        assert address.startswith("http://127.0.0.1:")
        yield address
    finally:
        process.terminate()
        process.wait(20)
        process.stderr.close()
