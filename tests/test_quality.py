"""The bundled model on real photos it has not seen; needs the project's data, which are not in the repository."""

from pathlib import Path

import numpy as np
import pytest
import torch

DATA = Path(__file__).parents[2] / "shared" / "data" / "flickr8k"
COUNT = 150


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "images.tar").is_file(), reason="needs ../shared/data/flickr8k")
def test_bundled_model_beats_chance_by_far_in_both_modes():
    from flairsearch.model import load_model
    from training.data import Annotations, read_photos
    from training.evaluate import recall, score_all

    annotations = Annotations.read(DATA / "val.json")
    photos = read_photos(DATA / "images.tar", annotations.names[:COUNT])
    captions = [several[0] for several in annotations.captions[:COUNT]]
    torch.set_num_threads(2)
    full, whole, _ = score_all(load_model("flair-tiny"), photos, captions)
    right = np.eye(COUNT, dtype=bool)
    chance = 100 * 10 / COUNT
    assert recall(full.numpy(), right)["R@10"] > 4 * chance
    assert recall(whole.numpy(), right)["R@10"] > 4 * chance
