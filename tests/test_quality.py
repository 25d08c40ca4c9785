"""The bundled model on photos it was not trained on; needs the project's data, which are not in the repository."""

from pathlib import Path

import pytest
import torch

DATA = Path(__file__).parents[2] / "shared" / "data" / "flickr8k"


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "images.tar").is_file(), reason="needs ../shared/data/flickr8k")
def test_bundled_model_finds_photos_and_places():
    """The figures promised for it: floors well below its card, so that a broken tower, pool or file falls through."""
    from flairsearch.model import load_model
    from training.data import Annotations, read_photos
    from training.evaluate import RIGHT_CELL, evaluate

    torch.set_num_threads(2)
    annotations = Annotations.read(DATA / "val.json")
    figures = evaluate(load_model("flair-tiny"), read_photos(DATA / "images.tar", annotations.names), annotations)
    photos, four, nine = (figures[name] for name in ("photos", "mosaics 2x2", "mosaics 3x3"))
    for k, least in {"R@1": 5, "R@5": 15, "R@10": 25}.items():
        assert photos["full"][k] >= least
    assert abs(photos["global"]["R@10"] - photos["full"]["R@10"]) <= 3
    assert four["full"]["R@10"] >= 1.4 * four["global"]["R@10"]
    assert four[RIGHT_CELL] >= 60
    assert nine[RIGHT_CELL] >= 35
