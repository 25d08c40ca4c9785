"""Sample photographs for `flairsearch demo`; sample_photos/LICENCES.md names their sources."""

from __future__ import annotations

import shutil
from importlib import resources
from pathlib import Path

QUERIES = ("a cup of coffee", "a cat with green eyes", "an astronaut in an orange suit")
_PHOTO_SUFFIXES = (".png", ".jpg")


def copy_samples(target: Path) -> Path:
    """Copy the photographs out of the package into a folder and return it."""
    target.mkdir(parents=True, exist_ok=True)
    with resources.as_file(resources.files("flairsearch.cli") / "sample_photos") as samples:
        for photo in sorted(samples.iterdir()):
            if photo.suffix in _PHOTO_SUFFIXES:
                shutil.copyfile(photo, target / photo.name)
    return target
