"""The text tower learns MiniLM's space: CLIP's tokenizer and causal transformer, 256 numbers a text.

The teacher's vectors are centred on the bank's mean and turned to its principal axes, of which the first 256 are kept.
A token starts as the teacher's vector of its letters, and the first block as the mean over a text's tokens: what is
learned is what a sentence says beyond its words. Loss: 1 - cosine, and SIMILARITY times the mean squared error of the
similarities within a batch.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip import SimpleTokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from flairsearch.model.flair import FLAIR

SIMILARITY = 5.0
WARMUP = 300
_BATCHES = 16  # sorted by length together
_EVERY = 200  # steps between checkpoints, and lines in the log
_SMALL, _MEAN_GAIN = 0.02, 1.0  # spread of the blocks' weights at the start; gain of the first block's mean


@dataclass(frozen=True)
class Space:
    """The teacher's vectors m -> the text tower's: (m - mean) @ axes, f32[384] and f32[384, D]."""

    mean: NDArray[np.float32]
    axes: NDArray[np.float32]

    def __call__(self, vectors: NDArray[np.floating]) -> NDArray[np.float32]:
        return np.asarray((vectors - self.mean) @ self.axes, np.float32)

    @staticmethod
    def fit(vectors: NDArray[np.floating], dim: int) -> Space:
        mean = vectors.mean(0, dtype=np.float64)
        centred = vectors.astype(np.float32) - mean.astype(np.float32)
        _, axes = np.linalg.eigh(centred.T @ centred)
        return Space(mean.astype(np.float32), np.ascontiguousarray(axes[:, ::-1][:, :dim], np.float32))


class TextTower(nn.Module):
    """The text side of a FLAIR under its own parameters, with the blocks written out: faster on a CPU than torch's."""

    def __init__(self, flair: FLAIR) -> None:
        super().__init__()
        self._towers = flair.towers
        self._heads = flair.config.text_heads

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids i64[T, L], zeros behind the end -> global text tokens f32[T, D]."""
        towers = self._towers
        x = F.embedding(ids, towers.token_embedding.weight) + towers.positional_embedding[: ids.shape[1]]
        for block in towers.transformer.resblocks:
            packed = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias)
            query, key, value = packed.unflatten(-1, (3, self._heads, -1)).permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2).flatten(2)
            x = x + block.attn.out_proj(mixed)
            x = x + block.mlp(block.ln_2(x))
        last = x[torch.arange(len(x)), ids.argmax(-1)]
        return towers.ln_final(last) @ towers.text_projection


@torch.no_grad()
def start(flair: FLAIR, tokens: NDArray[np.float32]) -> None:
    """Let a FLAIR's text tower begin as the mean of its tokens' vectors f32[V, D]."""
    towers, width = flair.towers, flair.config.text_width
    spread = tokens.std(0, where=tokens.any(1, keepdims=True))
    towers.token_embedding.weight.copy_(torch.from_numpy(tokens / spread.mean()))
    towers.positional_embedding.zero_()
    for i, block in enumerate(towers.transformer.resblocks):
        packed, out = block.attn.in_proj_weight, block.attn.out_proj.weight
        nn.init.normal_(packed, std=_SMALL)
        nn.init.normal_(out, std=_SMALL / 2)
        nn.init.normal_(block.mlp.c_fc.weight, std=_SMALL * 2)
        nn.init.normal_(block.mlp.c_proj.weight, std=_SMALL / 2)
        for bias in (block.attn.in_proj_bias, block.attn.out_proj.bias, block.mlp.c_fc.bias, block.mlp.c_proj.bias):
            bias.zero_()
        if i == 0:
            packed[2 * width :] = torch.eye(width)
            out.copy_(_MEAN_GAIN * torch.eye(width))
    towers.text_projection.copy_(torch.eye(width, flair.config.embed_dim))


def token_letters(tokenizer: SimpleTokenizer) -> list[str]:
    """What each of CLIP's token ids spells, "" for the two marks."""
    letters = []
    for token in range(tokenizer.vocab_size):
        word = tokenizer.decoder[token].replace("</w>", "")
        spelled = bytearray(tokenizer.byte_decoder[letter] for letter in word) if not word.startswith("<") else b""
        letters.append(spelled.decode("utf-8", errors="ignore"))
    return letters


@dataclass(frozen=True)
class Bank:
    """Texts of several sources: token ids i32[N, 77], their lengths, the teacher's vectors, and each source's share."""

    ids: NDArray[np.int32]
    lengths: NDArray[np.int64]
    vectors: NDArray[np.float32]
    sources: Mapping[str, NDArray[np.int64]]
    shares: Mapping[str, float]

    def batches(self, seed: int, size: int) -> Iterator[NDArray[np.int64]]:
        """Endless: rows of texts of about the same length."""
        rng = np.random.default_rng(seed)
        names = list(self.shares)
        chances = np.array([self.shares[name] for name in names])
        while True:
            counts = rng.multinomial(size * _BATCHES, chances / chances.sum())
            rows = np.concatenate([rng.choice(self.sources[n], c) for n, c in zip(names, counts, strict=True)])
            rows = rows[np.argsort(self.lengths[rows] + rng.random(len(rows)), kind="stable")]
            yield from rng.permutation(rows.reshape(_BATCHES, size))


def distillation_loss(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """f32[T, D] each -> the loss, and the mean cosine."""
    a, b = F.normalize(student, dim=-1), F.normalize(teacher, dim=-1)
    cosine = (a * b).sum(-1).mean()
    return 1 - cosine + SIMILARITY * F.mse_loss(a @ a.T, b @ b.T), cosine


def distil(flair: FLAIR, bank: Bank, run: Path, steps: int, size: int, rate: float, seed: int = 0) -> None:
    """`steps` steps on `size` texts each; goes on from `run`/text.pt where there is one."""
    tower = TextTower(flair)
    towers = flair.towers
    used = torch.from_numpy(np.unique(bank.ids).astype(np.int64))
    place = torch.zeros(len(towers.token_embedding.weight), dtype=torch.int64)
    place[used] = torch.arange(len(used))
    everything = towers.token_embedding.weight.detach().clone()
    towers.token_embedding.weight = nn.Parameter(everything[used].clone())  # the optimizer need not see the others
    trained = [towers.token_embedding.weight, towers.positional_embedding, towers.text_projection]
    trained += [*towers.transformer.parameters(), *towers.ln_final.parameters()]
    for parameter in trained:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(trained, lr=rate, betas=(0.9, 0.98), weight_decay=0, fused=True)
    average = [p.detach().clone() for p in trained]
    state, first = run / "text.pt", 0
    if state.is_file():
        saved = torch.load(state, weights_only=True)
        first = saved["step"]
        optimizer.load_state_dict(saved["optimizer"])
        with torch.no_grad():
            torch._foreach_copy_(trained, saved["trained"])
            torch._foreach_copy_(average, saved["average"])
    ids, vectors = torch.from_numpy(bank.ids), torch.from_numpy(bank.vectors)
    batches, cosines, began = bank.batches(seed + first, size), [], time.time()
    for step in range(first, steps):
        rows = torch.from_numpy(next(batches))
        length = int(bank.lengths[rows.numpy()].max())
        chosen = ids[rows, :length].long()
        ends = chosen.argmax(-1)
        compact = place[chosen]
        # `TextTower` finds a text's end by the largest id, which the compact ids keep: END stays the last of all.
        compact = torch.where(torch.arange(length) <= ends[:, None], compact, 0)
        with torch.autocast("cpu", torch.bfloat16):
            found = tower(compact)
        loss, cosine = distillation_loss(found.float(), vectors[rows])
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        factor = min(1.0, (step + 1) / WARMUP) * 0.5 * (1 + np.cos(np.pi * step / steps))
        optimizer.param_groups[0]["lr"] = rate * max(float(factor), 0.01)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch._foreach_lerp_(average, [p.detach() for p in trained], 1 - min(0.998, (1 + step) / (10 + step)))
        cosines.append(float(cosine.detach()))
        if (step + 1) % _EVERY == 0 or step + 1 == steps:
            row = {
                "step": step + 1,
                "seconds": round(time.time() - began, 1),
                "cosine": round(float(np.mean(cosines)), 4),
            }
            with (run / "text.log.jsonl").open("a") as log:
                log.write(json.dumps(row) + "\n")
            cosines, began = [], time.time()
            saved = {"step": step + 1, "optimizer": optimizer.state_dict(), "trained": trained, "average": average}
            torch.save(saved, state.with_suffix(".part"))
            state.with_suffix(".part").replace(state)
    with torch.no_grad():
        torch._foreach_copy_(trained, average)
        everything[used] = towers.token_embedding.weight
    towers.token_embedding.weight = nn.Parameter(everything)
