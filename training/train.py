"""Train flair-tiny from scratch: `python -m training.train --help`.

Loss = text-conditioned sigmoid loss + global sigmoid loss (both multi-positive, arXiv 2412.03561)
     + distillation: the patches predict the frozen teacher's features of the same place (1 - cosine).
Half of the steps are on 2x2 mosaics. Most steps run on small pictures; a last phase fits the model to full size.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from flairsearch.model import FLAIR, IMAGE_MEAN, IMAGE_STD, ModelConfig, resize_positions
from training.batches import Batch, Batches
from training.data import TARGET_DIM, Annotations

WARMUP = 300
EMA = 0.998


class Student(nn.Module):
    """FLAIR and the head that predicts the teacher's features from the patches before the image projection."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.flair = FLAIR(config)
        self.head = nn.Linear(config.vision_width, TARGET_DIM)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        flair, dtype = self.flair, self.head.weight.dtype
        mean = torch.tensor(IMAGE_MEAN) * 255
        std = torch.tensor(IMAGE_STD) * 255
        pixels = ((batch.pictures - mean) / std).permute(0, 3, 1, 2).to(dtype)
        pooled, patches = flair.towers.visual(pixels)
        local = patches @ flair.towers.visual.proj
        text = flair.encode_text(batch.text)
        scale, bias = flair.towers.logit_scale.float().exp(), flair.towers.logit_bias.float()
        sign = batch.positive.float() * 2 - 1

        def sigmoid_loss(cosines: Tensor) -> Tensor:
            return -F.logsigmoid(sign * (scale * cosines.float() + bias)).sum() / sign.shape[1]

        conditioned = sigmoid_loss(flair.scores(local, text))
        whole = sigmoid_loss(F.normalize(pooled.float(), dim=-1) @ F.normalize(text.float(), dim=-1).T)
        predicted = self.head(patches).float().flatten(0, 1)
        distilled = (1 - F.cosine_similarity(predicted, batch.targets.reshape(len(predicted), -1))).mean()
        parts = {"conditioned": conditioned.item(), "global": whole.item(), "distilled": distilled.item()}
        return conditioned + whole + 4 * distilled, parts


def tokenize(flair: FLAIR, annotations: Annotations) -> np.ndarray:
    """i64[N, 5, 77]."""
    flat = [caption for captions in annotations.captions for caption in captions]
    tokens: np.ndarray = flair.tokenize(flat).numpy().reshape(len(annotations.names), -1, flair.config.context_length)
    return tokens


class Optimizer:
    """AdamW on float32 master weights of a bfloat16 model, and a moving average of them."""

    def __init__(self, student: Student, rate: float, decay: float) -> None:
        self._live = list(student.parameters())
        self.master = [p.detach().float().clone() for p in self._live]
        self.average = [p.clone() for p in self.master]
        plain = [i for i, p in enumerate(self.master) if p.ndim < 2]
        heavy = [i for i, p in enumerate(self.master) if p.ndim >= 2]
        groups = [
            {"params": [self.master[i] for i in heavy], "weight_decay": decay},
            {"params": [self.master[i] for i in plain], "weight_decay": 0.0},
        ]
        self._adam = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), eps=1e-6, fused=True)
        self._rate = rate

    def step(self, factor: float, number: int) -> None:
        for master, live in zip(self.master, self._live, strict=True):
            master.grad = None if live.grad is None else live.grad.float()
            live.grad = None
        torch.nn.utils.clip_grad_norm_(self.master, 1.0)
        for group in self._adam.param_groups:
            group["lr"] = self._rate * factor
        self._adam.step()
        keep = min(EMA, (1 + number) / (10 + number))
        torch._foreach_lerp_(self.average, self.master, 1 - keep)
        with torch.no_grad():
            torch._foreach_copy_(self._live, self.master)


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    config = replace(ModelConfig.from_json(args.config.read_text()), image_size=args.size)
    student = Student(config)
    student.flair.towers.logit_bias.data.fill_(-5.0)
    if args.start:
        tensors = load_file(args.start)
        head = {n.removeprefix("head."): tensors.pop(n) for n in list(tensors) if n.startswith("head.")}
        student.head.load_state_dict(head)
        student.flair.load_flair_state(resize_positions(tensors, config.grid))
    tokens = tokenize(student.flair, Annotations.read(args.annotations))
    batches = Batches(args.cache, args.annotations, tokens, config.image_size, config.grid, args.seed)
    student.to(torch.bfloat16 if args.bf16 else torch.float32)
    optimizer = Optimizer(student, args.rate, args.decay)
    args.run.mkdir(parents=True, exist_ok=True)
    settings = {name: str(v) if isinstance(v, Path) else v for name, v in vars(args).items()}
    (args.run / "settings.json").write_text(json.dumps(settings, indent=1))
    log = (args.run / "log.jsonl").open("w")
    began, sums = time.time(), {}
    for step, batch in enumerate(tqdm(batches.stream(0, args.steps, args.pictures), total=args.steps, mininterval=10)):
        loss, parts = student(batch)
        loss.backward()
        warm = min(1.0, (step + 1) / WARMUP)
        optimizer.step(warm * 0.5 * (1 + np.cos(np.pi * step / args.steps)), step)
        kind = "mosaic" if step % 2 else "photo"
        for name, value in parts.items():
            sums.setdefault(f"{kind}_{name}", []).append(value)
        if (step + 1) % 200 == 0 or step + 1 == args.steps:
            row = {"step": step + 1, "minutes": round((time.time() - began) / 60, 1)}
            row |= {name: round(float(np.mean(values)), 4) for name, values in sums.items()}
            log.write(json.dumps(row) + "\n")
            log.flush()
            sums = {}
            save(student, optimizer.average, args.run)
    log.close()


def save(student: Student, average: list[Tensor], run: Path) -> None:
    """The averaged weights under FLAIR's names, and the head under `head.`; float32."""
    averaged = dict(zip((name for name, _ in student.named_parameters()), average, strict=True))
    copy = Student(student.flair.config)
    copy.load_state_dict(averaged)
    tensors = dict(copy.flair.flair_state()) | {f"head.{n}": t for n, t in copy.head.state_dict().items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, run / "weights.part")
    (run / "weights.part").rename(run / "weights.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train flair-tiny; make the cache with training.data first.")
    parser.add_argument("--annotations", type=Path, required=True, help="Flickr30k-style JSON of the training photos")
    parser.add_argument("--cache", type=Path, default=Path("training/runs/cache"))
    parser.add_argument("--run", type=Path, required=True, help="folder for the log and the weights")
    parser.add_argument("--config", type=Path, default=Path("flairsearch/models/flair-tiny.json"))
    parser.add_argument("--start", type=Path, help="weights to go on from (another picture size is fitted)")
    parser.add_argument("--size", type=int, default=128, help="picture side in pixels")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--pictures", type=int, default=64, help="pictures a step")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--decay", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bf16", action="store_true", help="bfloat16 model, float32 master weights")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
