"""Sample photographs for `flairsearch demo`: they come with the wheels of scikit-image and scikit-learn."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

from flairsearch.errors import FlairSearchError

_SAMPLES = {
    "skimage/data": ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg"),
    "sklearn/datasets/images": ("china.jpg", "flower.jpg"),
}
QUERIES = ("a cat with green eyes", "a woman in an orange suit")
BEYOND = "a cup of coffee"  # there is such a photo, and flair-tiny does not find it: a demo must not look better


def copy_samples(target: Path) -> Path:
    """Copy the photographs out of the installed packages into a folder and return it.

    Raises FlairSearchError when none of the packages is installed.
    """
    target.mkdir(parents=True, exist_ok=True)
    for place, names in _SAMPLES.items():
        package, _, folder = place.partition("/")
        spec = find_spec(package)
        for home in (spec.submodule_search_locations or ()) if spec else ():
            for name in names:
                if (Path(home) / folder / name).is_file():
                    shutil.copy(Path(home) / folder / name, target / name)
    if not any(target.iterdir()):
        raise FlairSearchError(
            "no sample photographs on this machine - pip install flairsearch[demo], or give --photos"
        )
    return target
