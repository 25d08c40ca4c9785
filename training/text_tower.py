"""Distil MiniLM into the text tower: CLIP's tokenizer and causal transformer, with 256 dimensions a text.

The teacher's vectors are centred on the bank's mean and projected to the first 256 of its principal axes. A token's
embedding is initialised with the teacher's vector of its letters, and the first block with the mean over a text's
tokens; training adds what a sentence means beyond its words. The loss is 1 - cosine plus SIMILARITY_WEIGHT times the
mean squared error of the similarities within a batch.
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

SIMILARITY_WEIGHT = 5.0  # Weight of the error of the similarities.
WARMUP = 300  # Steps of the learning rate's warm-up.
_SORTED_BATCHES = 16  # This many batches are sorted by length together.
_LOG_STEPS = 200  # Steps between two checkpoints and lines of the log.
_WEIGHT_DEVIATION = 0.02  # Standard deviation of the blocks' initial weights.
_MEAN_GAIN = 1.0  # Initial gain of the first block's mean over tokens.


@dataclass(frozen=True)
class Space:
    """The projection of the teacher's vectors m to those of the text tower: (m - mean) @ axes."""

    mean: NDArray[np.float32]  # Mean of the teacher's vectors, [384].
    axes: NDArray[np.float32]  # Principal axes, [384, D].

    def __call__(self, vectors: NDArray[np.floating]) -> NDArray[np.float32]:
        """Project the teacher's vectors [T, 384] to f32[T, D]."""
        return np.asarray((vectors - self.mean) @ self.axes, np.float32)

    @staticmethod
    def fit(vectors: NDArray[np.floating], dim: int) -> Space:
        """Fit the mean and the first `dim` principal axes of the teacher's vectors [T, 384]."""
        mean = vectors.mean(0, dtype=np.float64)
        centred = vectors.astype(np.float32) - mean.astype(np.float32)
        _, axes = np.linalg.eigh(centred.T @ centred)
        return Space(mean.astype(np.float32), np.ascontiguousarray(axes[:, ::-1][:, :dim], np.float32))


class TextTower(nn.Module):
    """The text side of a FLAIR, sharing its parameters; written out, the blocks are faster on a CPU than torch's."""

    def __init__(self, flair: FLAIR) -> None:
        super().__init__()
        self._towers = flair.towers
        self._heads = flair.config.text_heads

    def forward(self, ids: Tensor) -> Tensor:
        """Map token ids i64[T, L], padded with zeros, to global text tokens f32[T, D]."""
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
def initialise(flair: FLAIR, tokens: NDArray[np.float32]) -> None:
    """Initialise a FLAIR's text tower as the mean over a text of its tokens' vectors `tokens` f32[V, D]."""
    towers, width = flair.towers, flair.config.text_width
    deviation = tokens.std(0, where=tokens.any(1, keepdims=True))
    towers.token_embedding.weight.copy_(torch.from_numpy(tokens / deviation.mean()))
    towers.positional_embedding.zero_()
    for i, block in enumerate(towers.transformer.resblocks):
        packed, out = block.attn.in_proj_weight, block.attn.out_proj.weight
        nn.init.normal_(packed, std=_WEIGHT_DEVIATION)
        nn.init.normal_(out, std=_WEIGHT_DEVIATION / 2)
        nn.init.normal_(block.mlp.c_fc.weight, std=_WEIGHT_DEVIATION * 2)
        nn.init.normal_(block.mlp.c_proj.weight, std=_WEIGHT_DEVIATION / 2)
        for bias in (block.attn.in_proj_bias, block.attn.out_proj.bias, block.mlp.c_fc.bias, block.mlp.c_proj.bias):
            bias.zero_()
        if i == 0:
            packed[2 * width :] = torch.eye(width)
            out.copy_(_MEAN_GAIN * torch.eye(width))
    towers.text_projection.copy_(torch.eye(width, flair.config.embed_dim))


def token_letters(tokenizer: SimpleTokenizer) -> list[str]:
    """Return the letters of each of CLIP's token ids; "" for the start and end tokens."""
    letters = []
    for token in range(tokenizer.vocab_size):
        word = tokenizer.decoder[token].replace("</w>", "")
        spelled = bytearray(tokenizer.byte_decoder[letter] for letter in word) if not word.startswith("<") else b""
        letters.append(spelled.decode("utf-8", errors="ignore"))
    return letters


@dataclass(frozen=True)
class Bank:
    """N texts of several sources with the teacher's vectors."""

    ids: NDArray[np.int32]  # Token ids, [N, 77].
    lengths: NDArray[np.int64]  # Number of tokens of each text, [N].
    vectors: NDArray[np.float32]  # Projected vectors of the teacher, [N, D].
    sources: Mapping[str, NDArray[np.int64]]  # Numbers of the texts of each source.
    shares: Mapping[str, float]  # Share of each source in a batch.

    def batches(self, seed: int, size: int) -> Iterator[NDArray[np.int64]]:
        """Yield batches endlessly: numbers of `size` texts of about the same length."""
        rng = np.random.default_rng(seed)
        names = list(self.shares)
        chances = np.array([self.shares[name] for name in names])
        while True:
            counts = rng.multinomial(size * _SORTED_BATCHES, chances / chances.sum())
            rows = np.concatenate([rng.choice(self.sources[n], c) for n, c in zip(names, counts, strict=True)])
            rows = rows[np.argsort(self.lengths[rows] + rng.random(len(rows)), kind="stable")]
            yield from rng.permutation(rows.reshape(_SORTED_BATCHES, size))


def distillation_loss(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss between vectors f32[T, D] of student and teacher, and their mean cosine."""
    a, b = F.normalize(student, dim=-1), F.normalize(teacher, dim=-1)
    cosine = (a * b).sum(-1).mean()
    return 1 - cosine + SIMILARITY_WEIGHT * F.mse_loss(a @ a.T, b @ b.T), cosine


def distil(flair: FLAIR, bank: Bank, run: Path, steps: int, size: int, rate: float, seed: int = 0) -> None:
    """Train for `steps` steps of `size` texts; resume from `run`/text.pt if it exists."""
    tower = TextTower(flair)
    towers = flair.towers
    used_ids = torch.from_numpy(np.unique(bank.ids).astype(np.int64))
    compact_of = torch.zeros(len(towers.token_embedding.weight), dtype=torch.int64)
    compact_of[used_ids] = torch.arange(len(used_ids))
    full_embedding = towers.token_embedding.weight.detach().clone()
    # The optimizer only holds the embeddings of used tokens.
    towers.token_embedding.weight = nn.Parameter(full_embedding[used_ids].clone())
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
        compact = compact_of[chosen]
        # `TextTower` finds the end of a text by the largest id; END has the largest compact id, too.
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
        if (step + 1) % _LOG_STEPS == 0 or step + 1 == steps:
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
        full_embedding[used_ids] = towers.token_embedding.weight
    towers.token_embedding.weight = nn.Parameter(full_embedding)
