"""Pictures -> Encoded, texts -> queries: batching, precision and device around the model."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from flairsearch.core.arrays import chunks
from flairsearch.core.atomic_file import atomic_write
from flairsearch.core.errors import UsageError
from flairsearch.core.memory import keep_freed_memory
from flairsearch.core.paths import cache_folder
from flairsearch.core.types import EncodedText, EncodedViews, Picture, PoolWeights
from flairsearch.model import checkpoints, prompts
from flairsearch.model.attention_pool import LAYER_NORM_EPS, FoldedPool
from flairsearch.model.flair import FLAIR, IMAGE_MEAN, IMAGE_STD, load_model, run_image_tower

BANK_BATCH = 64  # texts encoded at once
_CPU_CONV_VIEWS = 8  # through a convolutional tower on a CPU at once: more leave its caches


def choose_device(name: str = "auto") -> str:
    """`auto` is CUDA, else Apple's GPU, else the CPU. Raises UsageError when the device is not there."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return next(device for device in ("cuda", "mps", "cpu") if there[device])
    if not there.get(name.split(":")[0], False):
        raise UsageError(f"no device {name!r} on this machine - use --device auto or cpu")
    return name


def choose_precision(device: str) -> torch.dtype:
    """bfloat16 where the hardware multiplies it: every recent GPU, CPUs with AVX512-BF16 or AMX; else float32."""
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device == "cpu":
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if fast else torch.float32
    return torch.float32


class Encoder:
    """A model on a device: the image tower in a fast precision, texts and the fold in float32."""

    def __init__(
        self, model: str = checkpoints.BUNDLED, device: str = "auto", precision: torch.dtype | None = None
    ) -> None:
        self.device = choose_device(device)
        if self.device == "cpu":
            keep_freed_memory()
        self._precision = precision or choose_precision(self.device)
        self._model: FLAIR = load_model(model, self.device)
        self.name, self.weights_hash, self.config = self._model.name, self._model.weights_hash, self._model.config

    @cached_property
    def _visual(self) -> Any:
        """The image tower in the fast precision, made when the first picture comes (a query needs none)."""
        visual = self._model.towers.visual
        return visual if self._precision == torch.float32 else copy.deepcopy(visual).to(self._precision)

    @cached_property
    def _folding(self) -> FoldedPool:
        return self._model.folding

    @property
    def pool_weights(self) -> PoolWeights:
        """What re-ranking needs of the model besides a query."""
        return self._folding.weights

    @cached_property
    def token_metric(self) -> np.ndarray:
        """f32[D, D]: how much an error e of a stored token matters, e^T metric e.

        Half for any text (FoldedPool.token_metric), half for those of model/prompts.py: mean squares of e . u, the
        logits' error, and of e along what moves the pooled vector towards the text; trace 1 each.
        """
        values_of, queries = self.pool_weights, self.encode_texts(prompts.phrases())
        keys = np.concatenate([query.u for query in queries])
        texts = np.stack([query.vector / np.linalg.norm(query.vector) for query in queries])
        out = values_of.out.reshape(len(values_of.out), *values_of.value.shape[:2])  # [D, H, d]
        values = np.einsum("to,ohd,hde->the", texts, out, values_of.value, optimize=True).reshape(-1, keys.shape[1])
        squares = [part.T @ part for part in (keys, values)]
        metric: np.ndarray = (self._folding.token_metric() + sum(square / np.trace(square) for square in squares)) / 2
        return metric

    @torch.inference_mode()
    def encode_pictures(self, pictures: Sequence[Picture]) -> EncodedViews:
        """N views u8[S, S, 3] -> Encoded; x = LayerNorm without gain of each local token."""
        pooled, local = self._look(pictures)
        mean = local.mean(-1, keepdim=True)
        scale = (local.var(-1, correction=0, keepdim=True) + LAYER_NORM_EPS).sqrt()
        columns = (pooled, (local - mean) / scale, (mean / scale).squeeze(-1), scale.squeeze(-1))
        return EncodedViews(*(column.half().cpu().numpy() for column in columns))

    @torch.inference_mode()
    def encode_examples(self, pictures: Sequence[Picture], names: Sequence[str]) -> list[EncodedText]:
        """Pictures that are looked for, u8[S, S, 3], and what to call them -> folded queries, float32.

        t = unit(g) + unit(pool(g, L)), g the global token and L the local ones: the picture as CLIP sees it, and what
        the pool finds in it when it is asked for that. A region is a picture of its own, cut out.
        Over a gallery its scores spread as a text's do (standard deviation 0.18, 0.19), so where scores are averaged
        a picture that weighs 1, the default, counts as much as a text. They are higher, by 0.3 in the mean: the two are
        not to be compared, and vectors not to be added up. Figures, other vectors: benchmarks/picture_queries.py.
        """
        pooled, local = self._look(pictures)
        found, _ = self._model.visual_proj(pooled[:, None], local)
        return self._fold(pooled + F.normalize(found[:, 0], dim=-1), names)

    def _look(self, pictures: Sequence[Picture]) -> tuple[torch.Tensor, torch.Tensor]:
        """N views u8[S, S, 3] -> global tokens of unit length f32[N, D], local tokens f32[N, P, D]."""
        step = _CPU_CONV_VIEWS if self.device == "cpu" and self.config.conv_stages else len(pictures)
        parts = []
        for start in range(0, len(pictures), step):
            image = self._normalise(np.stack([picture.pixels for picture in pictures[start : start + step]]))
            parts.append(run_image_tower(self._visual, image))
        pooled, local = (torch.cat(columns).float() for columns in zip(*parts, strict=True))
        return F.normalize(pooled, dim=-1), local

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> list[EncodedText]:
        """Texts -> folded queries, float32."""
        vectors = self._model.encode_text(self._model.tokenize(list(texts)).to(self.device))
        return self._fold(vectors, texts)

    def fold(self, vectors: np.ndarray) -> list[EncodedText]:
        """Vectors of texts that nobody knows any more, f32[T, D] -> folded queries."""
        return self._folding.queries(vectors, [""] * len(vectors))

    def _fold(self, vectors: torch.Tensor, texts: Sequence[str]) -> list[EncodedText]:
        return self._folding.queries(vectors.float().cpu().numpy(), list(texts))

    def bank(self, texts: Sequence[str] | None = None, batch: int = BANK_BATCH) -> list[EncodedText]:
        """The texts, or those of model/prompts.py; `batch` at once goes through the text tower.

        Their vectors stay in the user's cache: a large text tower takes minutes for them.
        """
        chosen = prompts.texts() if texts is None else texts
        name = f"{self.weights_hash[:16]}-{zlib.crc32('|'.join(chosen).encode()):08x}.f32"
        file = cache_folder().with_name("banks") / name
        with suppress(OSError):
            kept = np.fromfile(file, np.uint8)  # f32[T, D], then their CRC-32
            vectors, crc = kept[:-4], kept[-4:].tobytes()
            whole = len(kept) == 4 * len(chosen) * self.config.embed_dim + 4
            if whole and crc == zlib.crc32(vectors.data).to_bytes(4, "little"):
                return self.fold(vectors.view("<f4").reshape(len(chosen), -1))
        parts = [self.encode_texts(some) for some in chunks(chosen, batch)]
        queries = [query for part in parts for query in part]
        with suppress(OSError):  # it costs time the next time, no more
            file.parent.mkdir(parents=True, exist_ok=True)
            data = np.stack([query.vector for query in queries]).astype("<f4").tobytes()
            with atomic_write(file, durable=False) as stream:
                stream.write(data + zlib.crc32(data).to_bytes(4, "little"))
        return queries

    def _normalise(self, pixels: np.ndarray) -> torch.Tensor:
        """u8[N, S, S, 3] -> f[N, 3, S, S] in the image tower's precision."""
        image = torch.from_numpy(pixels).to(self.device)
        # Rows of 3 S numbers are worth a vector each; three channels alone would not fill one.
        mean, std = (
            torch.tensor(v, device=self.device).mul(255).repeat(pixels.shape[2]) for v in (IMAGE_MEAN, IMAGE_STD)
        )
        rows = image.flatten(2).float().sub_(mean).div_(std)
        return rows.to(self._precision).view(image.shape).permute(0, 3, 1, 2)
