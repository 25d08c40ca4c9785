"""The bundled model on photos it was not trained on; needs the project's data, which are not in the repository.

Floors well below its card, so that a broken tower, pool or file falls through.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from flairsearch.evaluate import galleries
from flairsearch.evaluate.box_datasets import read_box_dataset
from flairsearch.evaluate.caption_datasets import read_caption_dataset
from flairsearch.evaluate.mosaics import MosaicPlan
from flairsearch.evaluate.region_run import evaluate_regions
from flairsearch.evaluate.retrieval_metrics import best_ranks
from flairsearch.model.encoder import TorchEncoder
from flairsearch.rerank.many_texts import TextBatchScorer

DATA = Path(__file__).parents[3] / "shared" / "data"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (DATA / "broad" / "images.tar").is_file(), reason="needs ../shared/data"),
]


@pytest.fixture(scope="module")
def encoder() -> TorchEncoder:
    torch.set_num_threads(2)
    return TorchEncoder(device="cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The validation photos of both sets, unpacked."""
    folder = tmp_path_factory.mktemp("photos")
    for name, wanted in (("flickr8k", "images/"), ("broad", "words_"), ("broad", "voc2007_test/")):
        with tarfile.open(DATA / name / "images.tar") as tar:
            members = [m for m in tar if m.name.removeprefix("./").startswith(wanted)]
            tar.extractall(folder, members, filter="data")
    return folder


@pytest.mark.parametrize(
    ("file", "first", "tenth"), [("flickr8k/val.json", 0.18, 0.55), ("broad/val_words.jsonl", 0.25, 0.5)]
)
def test_photos_are_found(encoder: TorchEncoder, photos: Path, file: str, first: float, tenth: float) -> None:
    dataset = read_caption_dataset(DATA / file, photos)
    found = galleries.caption_gallery(dataset, encoder.encode_images, "squash", encoder.config.image_size)
    encoded = galleries.concatenate(found.encoded)
    queries = [q for i in range(0, len(found.texts), 256) for q in encoder.encode_texts(found.texts[i : i + 256])]
    assert found.relevant is not None
    ranks = best_ranks(TextBatchScorer(queries, encoder.pool_weights).score(encoded), found.relevant)
    assert (ranks < 1).mean() >= first
    assert (ranks < 10).mean() >= tenth


def test_places_are_found_in_mosaics(encoder: TorchEncoder, photos: Path) -> None:
    dataset = read_caption_dataset(DATA / "flickr8k" / "val.json", photos)
    size = encoder.config.image_size
    found = galleries.mosaic_gallery(dataset, encoder.encode_images, "squash", size, MosaicPlan(60, 2))
    row = next(evaluate_regions(found, [encoder.encode_texts(list(dict.fromkeys(found.texts)))], encoder.pool_weights))
    assert row.pointing is not None
    assert row.pointing >= 0.7
    assert row.iou >= 0.4


def test_classes_are_found_and_boxed(encoder: TorchEncoder, photos: Path) -> None:
    boxed = read_box_dataset(DATA / "broad" / "val_boxes.jsonl", photos, prompt="{}")
    found = galleries.box_gallery(boxed, encoder.encode_images, "squash", encoder.config.image_size)
    row = next(evaluate_regions(found, [encoder.encode_texts(found.texts)], encoder.pool_weights))
    assert row.precision >= 0.75
    assert row.hits_reached >= 0.4
    assert row.hits_centred >= 0.75
    assert np.isfinite(row.iou)
