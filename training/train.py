"""Train flair-tiny from scratch, in four phases: `python -m training.train --help`.

blocks  each early block of the image tower learns the same block of the frozen teacher, all of them at once;
distil  all blocks in a row learn the teacher's last features, and the early ones still their own;
head    text tower, pool and projections learn FLAIR's losses over the teacher's features;
joint   everything learns FLAIR's losses end to end, and to predict the teacher's features.
Half of the steps show mosaics. A run that was stopped goes on from its last checkpoint when started again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from flairsearch import weights
from flairsearch.encode import choose_device
from flairsearch.model import ModelConfig
from training.batches import Batch, Batches
from training.data import Annotations, build_cache, cache_tokens
from training.student import Losses, Student
from training.teacher import Teacher

WARMUP = 200
AVERAGE = 0.998  # decay of the moving average of the weights
EVERY = 100  # steps between checkpoints, and lines in the log
STEPS = (1000, 900, 1400, 3500)
CONFIG = Path(__file__).parent / "flair-tiny.json"


@dataclass(frozen=True)
class Phase:
    name: str
    steps: int
    pictures: int  # in a batch
    size: int  # side in pixels
    rate: float  # of the heads
    trunk_rate: float


class Optimizer:
    """AdamW on float32 copies of a model's weights, and a moving average of them."""

    def __init__(self, student: Student, phase: Phase) -> None:
        trunk = {id(parameter) for parameter in student.trunk.parameters()}
        self._live, groups = [], []
        self.master: list[Tensor] = []
        for rate, inside in ((phase.trunk_rate, True), (phase.rate, False)):
            for plain in (True, False):
                live = [p for p in student.parameters() if (id(p) in trunk) == inside and (p.ndim < 2) == plain]
                if rate and live:
                    copies = [p.detach().float().clone() for p in live]
                    groups.append({"params": copies, "lr": rate, "weight_decay": 0.0 if plain else 0.1, "rate": rate})
                    self._live += live
                    self.master += copies
        for parameter in student.parameters():
            parameter.requires_grad_(False)
        for parameter in self._live:
            parameter.requires_grad_(True)
        self.average = [p.clone() for p in self.master]
        self._adam = torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-7, fused=True)
        for p in self.master:  # as the optimizer would at its first step, so that a checkpoint can be read into it
            self._adam.state[p] = {
                "step": torch.zeros((), device=p.device),
                "exp_avg": torch.zeros_like(p),
                "exp_avg_sq": torch.zeros_like(p),
            }

    def step(self, factor: float, number: int) -> None:
        for master, live in zip(self.master, self._live, strict=True):
            master.grad = None if live.grad is None else live.grad.float()
            live.grad = None
        nn.utils.clip_grad_norm_(self.master, 1.0)
        for group in self._adam.param_groups:
            group["lr"] = group["rate"] * factor
        self._adam.step()
        keep = min(AVERAGE, (1 + number) / (10 + number))
        torch._foreach_lerp_(self.average, self.master, 1 - keep)
        self.show(self.master)

    @torch.no_grad()
    def show(self, values: list[Tensor]) -> None:
        """Let the model have these weights."""
        torch._foreach_copy_(self._live, values)

    def tensors(self) -> dict[str, Tensor]:
        """All there is to go on from."""
        kept = {f"master.{i}": p for i, p in enumerate(self.master)}
        kept |= {f"average.{i}": p for i, p in enumerate(self.average)}
        for i, p in enumerate(self.master):
            kept |= {f"{name}.{i}": value for name, value in self._adam.state[p].items()}
        return kept

    @torch.no_grad()
    def load(self, saved: dict[str, Tensor]) -> None:
        for name, tensor in self.tensors().items():
            tensor.copy_(saved[f"optimizer.{name}"])
        self.show(self.master)


class Run:
    """A folder with settings.json, log.jsonl, state.safetensors (to go on from), weights.safetensors (the result)."""

    def __init__(self, folder: Path, student: Student, seed: int) -> None:
        self._folder, self._student, self._seed = folder, student, seed
        self._state = folder / "state.safetensors"
        self._log = folder / "log.jsonl"

    def done(self) -> tuple[int, int]:
        """(phase, step) of the last checkpoint."""
        if not self._state.is_file():
            return 0, 0
        with safe_open(self._state, "pt") as state:
            at = state.metadata()
        return int(at["phase"]), int(at["step"])

    def load(self) -> dict[str, Tensor]:
        saved: dict[str, Tensor] = load_file(self._state)
        live = {name.removeprefix("student."): t for name, t in saved.items() if name.startswith("student.")}
        self._student.load_state_dict(live)
        return saved

    def _save(self, optimizer: Optimizer, phase: int, step: int) -> None:
        tensors = {f"student.{name}": tensor for name, tensor in self._student.state_dict().items()}
        tensors |= {f"optimizer.{name}": tensor for name, tensor in optimizer.tensors().items()}
        part = self._state.with_suffix(".part")
        save_file({n: t.contiguous() for n, t in tensors.items()}, part, {"phase": str(phase), "step": str(step)})
        part.replace(self._state)

    def phase(
        self,
        index: int,
        phase: Phase,
        batches: Callable[[int], Iterator[Batch]],
        losses: Callable[[Batch], Losses],
    ) -> None:
        reached, start = self.done()
        if reached > index:
            return
        saved = self.load() if self._state.is_file() else None
        optimizer = Optimizer(self._student, phase)
        if saved is not None and reached == index and start:
            optimizer.load(saved)
        sums: dict[str, list[float]] = {}
        began = time.time()
        bar = tqdm(batches(start), initial=start, total=phase.steps, desc=phase.name, mininterval=5)
        for step, batch in enumerate(bar, start):
            torch.manual_seed(self._seed + 1_000_000 * index + step)  # a resumed run draws what an unbroken one would
            parts = losses(batch)
            torch.stack(list(parts.values())).sum().backward()
            warm = min(1.0, (step + 1) / WARMUP)
            optimizer.step(warm * 0.5 * (1 + np.cos(np.pi * step / phase.steps)), step)
            kind = "mosaic" if step % 2 else "photo"
            for name, value in parts.items():
                sums.setdefault(f"{kind}_{name}", []).append(value.item())
            if (step + 1) % EVERY == 0 or step + 1 == phase.steps:
                row = {"phase": phase.name, "step": step + 1, "seconds": round(time.time() - began, 1)}
                row |= {name: round(float(np.mean(values)), 4) for name, values in sums.items()}
                with self._log.open("a") as log:
                    log.write(json.dumps(row) + "\n")
                sums, began = {}, time.time()
                if step + 1 < phase.steps:
                    self._save(optimizer, index, step + 1)
        optimizer.show(optimizer.average)  # the next phase starts from the averaged weights
        self._save(optimizer, index + 1, 0)

    def write_weights(self, seen: set[int]) -> Path:
        """The result under FLAIR's names, float32; a token that was never seen says nothing rather than noise."""
        flair = self._student.flair.float()
        state = flair.flair_state()
        unseen = torch.ones(flair.config.vocab_size, dtype=torch.bool, device=state["logit_scale"].device)
        unseen[sorted(seen)] = False
        state["token_embedding.weight"] = state["token_embedding.weight"].masked_fill(unseen[:, None], 0)
        path = self._folder / "weights.safetensors"
        weights.save(state, flair.config.to_json(), weights.BUNDLED, path, seen)
        return path


def tokenize(student: Student, annotations: Annotations) -> np.ndarray:
    """i64[N, captions, 77]."""
    fewest = min(len(captions) for captions in annotations.captions)
    flat = [caption for captions in annotations.captions for caption in captions[:fewest]]
    tokens: np.ndarray = student.flair.tokenize(flat).numpy().reshape(len(annotations.names), fewest, -1)
    return tokens


def train(args: argparse.Namespace, phases: tuple[Phase, ...]) -> Path:
    torch.manual_seed(args.seed)
    device = choose_device(args.device)
    dtype = torch.bfloat16 if args.bf16 else torch.float32
    config = ModelConfig.from_json(CONFIG.read_text())
    teacher = Teacher(args.teacher, dtype, device)
    cache = args.run / "cache"
    build_cache(args.photos, args.annotations, teacher, cache)
    student = Student(config)
    tokens = tokenize(student, Annotations.read(args.annotations))
    student.to(device, dtype).to(memory_format=torch.channels_last)
    settings = {"seed": args.seed, "bf16": args.bf16, "device": device, "phases": [asdict(phase) for phase in phases]}
    (args.run / "settings.json").write_text(json.dumps(settings, indent=1))
    run = Run(args.run, student, args.seed)

    def batches(phase: Phase, targets: str) -> Callable[[int], Iterator[Batch]]:
        def start_at(step: int) -> Iterator[Batch]:
            source = Batches(cache, tokens, phase.size, phase.size // config.patch_size, args.seed, targets)
            return (batch.to(device) for batch in source.stream(step, phase.steps, phase.pictures))

        return start_at

    blocks, distil, head, joint = phases
    run.phase(0, blocks, batches(blocks, "features"), lambda batch: student.block_losses(batch, teacher))
    run.phase(1, distil, batches(distil, "features"), lambda batch: student.distil_losses(batch, teacher))
    run.phase(2, head, batches(head, "coarse"), student.head_losses)
    if run.done() == (3, 0):
        run.load()
        cache_tokens(cache, student.teacher_tokens)
    run.phase(3, joint, batches(joint, "tokens"), student.joint_losses)
    run.load()
    return run.write_weights(set(np.unique(tokens).tolist()))


def main() -> None:
    parser = argparse.ArgumentParser(description="Train flair-tiny on photos with Flickr30k-style annotations.")
    parser.add_argument("--photos", type=Path, required=True, help="folder or tar with the annotated photos")
    parser.add_argument("--annotations", type=Path, required=True, help="Flickr30k-style JSON")
    parser.add_argument("--teacher", type=Path, required=True, help="mobilenet_v2.npz")
    parser.add_argument("--run", type=Path, default=Path("training/runs/tiny"), help="folder for all that comes out")
    parser.add_argument("--steps", type=int, nargs=4, default=STEPS, help="of the four phases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 model, float32 master weights")
    args = parser.parse_args()
    blocks, distil, head, joint = args.steps
    phases = (
        Phase("blocks", blocks, pictures=32, size=160, rate=0, trunk_rate=3e-3),
        Phase("distil", distil, pictures=32, size=224, rate=0, trunk_rate=1e-3),
        Phase("head", head, pictures=64, size=224, rate=1.5e-3, trunk_rate=0),
        Phase("joint", joint, pictures=64, size=224, rate=3e-4, trunk_rate=1e-3),
    )
    print(train(args, phases))


if __name__ == "__main__":
    main()
