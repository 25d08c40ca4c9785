"""Encode views and texts with the model in torch; this module chooses batch size, precision and device."""

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

BANK_BATCH = 64  # Texts of a bank are encoded in batches of this size.
_CPU_CONV_VIEWS = 8  # A larger batch of a convolutional tower does not fit the caches of a CPU.


def choose_device(name: str = "auto") -> str:
    """Return the name of a device; `auto` is CUDA if present, else Apple's GPU, else the CPU.

    Raises UsageError when the machine lacks the device.
    """
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return next(device for device in ("cuda", "mps", "cpu") if present[device])
    if not present.get(name.split(":")[0], False):
        raise UsageError(f"no device {name!r} on this machine - use --device auto or cpu")
    return name


def choose_precision(device: str) -> torch.dtype:
    """Return bfloat16 if the hardware multiplies it (recent GPUs, CPUs with AVX512-BF16 or AMX), else float32.

    CUDA devices without bfloat16 get float16.
    """
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device == "cpu":
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if fast else torch.float32
    return torch.float32


class TorchEncoder:
    """A model on a device: the image tower runs in a fast precision, texts are encoded and folded in float32."""

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
        """The image tower in the fast precision; it is made for the first picture, since a text query needs none."""
        visual = self._model.towers.visual
        return visual if self._precision == torch.float32 else copy.deepcopy(visual).to(self._precision)

    @cached_property
    def _folded_pool(self) -> FoldedPool:
        return self._model.folded_pool

    @property
    def pool_weights(self) -> PoolWeights:
        """The pool's value and output side, for re-ranking."""
        return self._folded_pool.weights

    @cached_property
    def token_metric(self) -> np.ndarray:
        """The metric of token errors, f32[D, D]: an error e of a stored token costs e^T metric e.

        It is the mean of two metrics. One is for any text (`FoldedPool.token_metric`). The other is for the phrases of
        model/prompts.py: the mean square of e . u, the error of the logits, plus the mean square of the error of the
        pooled vector along the text; each of the two has trace 1.
        """
        weights, queries = self.pool_weights, self.encode_texts(prompts.phrases())
        keys = np.concatenate([query.u for query in queries])
        texts = np.stack([query.vector / np.linalg.norm(query.vector) for query in queries])
        out = weights.out.reshape(len(weights.out), *weights.value.shape[:2])  # [D, H, d]
        values = np.einsum("to,ohd,hde->the", texts, out, weights.value, optimize=True).reshape(-1, keys.shape[1])
        squares = [part.T @ part for part in (keys, values)]
        metric: np.ndarray = (
            self._folded_pool.token_metric() + sum(square / np.trace(square) for square in squares)
        ) / 2
        return metric

    @torch.inference_mode()
    def encode_images(self, pictures: Sequence[Picture]) -> EncodedViews:
        """Encode N views u8[S, S, 3]; the stored token x is the LayerNorm, without gain, of each local token."""
        pooled, local = self._encode_views(pictures)
        mean = local.mean(-1, keepdim=True)
        scale = (local.var(-1, correction=0, keepdim=True) + LAYER_NORM_EPS).sqrt()
        columns = (pooled, (local - mean) / scale, (mean / scale).squeeze(-1), scale.squeeze(-1))
        return EncodedViews(*(column.half().cpu().numpy() for column in columns))

    @torch.inference_mode()
    def encode_image_queries(self, pictures: Sequence[Picture], names: Sequence[str]) -> list[EncodedText]:
        """Encode example pictures u8[S, S, 3] as folded queries, float32; names are their texts.

        A picture's vector is t = unit(g) + unit(pool(g, L)), where g is its global token and L its local tokens: the
        embedding as in CLIP plus what the pool returns for it. A region is encoded as a picture of its own.
        Over a gallery, the scores of pictures spread as those of texts do (standard deviation 0.18 and 0.19), so when
        scores are averaged, a picture of weight 1 (the default) counts as much as a text. Their mean is 0.3 higher, so
        the scores must not be compared and the vectors must not be added. benchmarks/picture_queries.py measures this
        and other vectors.
        """
        pooled, local = self._encode_views(pictures)
        found, _ = self._model.visual_proj(pooled[:, None], local)
        return self._fold(pooled + F.normalize(found[:, 0], dim=-1), names)

    def _encode_views(self, pictures: Sequence[Picture]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the global tokens f32[N, D], of unit length, and local tokens f32[N, P, D] of N views u8[S, S, 3]."""
        step = _CPU_CONV_VIEWS if self.device == "cpu" and self.config.conv_stages else len(pictures)
        parts = []
        for start in range(0, len(pictures), step):
            image = self._normalise(np.stack([picture.pixels for picture in pictures[start : start + step]]))
            parts.append(run_image_tower(self._visual, image))
        pooled, local = (torch.cat(columns).float() for columns in zip(*parts, strict=True))
        return F.normalize(pooled, dim=-1), local

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> list[EncodedText]:
        """Encode texts as folded queries, float32."""
        vectors = self._model.encode_text(self._model.tokenize(list(texts)).to(self.device))
        return self._fold(vectors, texts)

    def fold(self, vectors: np.ndarray) -> list[EncodedText]:
        """Fold text vectors f32[T, D] whose texts are not known any more."""
        return self._folded_pool.fold_texts(vectors, [""] * len(vectors))

    def _fold(self, vectors: torch.Tensor, texts: Sequence[str]) -> list[EncodedText]:
        return self._folded_pool.fold_texts(vectors.float().cpu().numpy(), list(texts))

    def encode_prompts(self, texts: Sequence[str] | None = None, batch: int = BANK_BATCH) -> list[EncodedText]:
        """Encode a bank of texts in batches; None: the texts of model/prompts.py.

        The vectors are kept in the user's cache, since a large text tower takes minutes for them.
        """
        chosen = prompts.texts() if texts is None else texts
        name = f"{self.weights_hash[:16]}-{zlib.crc32('|'.join(chosen).encode()):08x}.f32"
        file = cache_folder().with_name("banks") / name
        with suppress(OSError):
            kept = np.fromfile(file, np.uint8)  # The file holds vectors f32[T, D], then their CRC-32.
            vectors, crc = kept[:-4], kept[-4:].tobytes()
            is_complete = len(kept) == 4 * len(chosen) * self.config.embed_dim + 4
            if is_complete and crc == zlib.crc32(vectors.data).to_bytes(4, "little"):
                return self.fold(vectors.view("<f4").reshape(len(chosen), -1))
        parts = [self.encode_texts(part) for part in chunks(chosen, batch)]
        queries = [query for part in parts for query in part]
        with suppress(OSError):  # Without the file, the next call encodes the texts again.
            file.parent.mkdir(parents=True, exist_ok=True)
            data = np.stack([query.vector for query in queries]).astype("<f4").tobytes()
            with atomic_write(file, durable=False) as stream:
                stream.write(data + zlib.crc32(data).to_bytes(4, "little"))
        return queries

    def _normalise(self, pixels: np.ndarray) -> torch.Tensor:
        """Normalise pixels u8[N, S, S, 3] to f[N, 3, S, S] in the image tower's precision."""
        image = torch.from_numpy(pixels).to(self.device)
        # Rows of 3 S numbers fill the processor's vectors; three channels alone would not.
        mean, std = (
            torch.tensor(v, device=self.device).mul(255).repeat(pixels.shape[2]) for v in (IMAGE_MEAN, IMAGE_STD)
        )
        rows = image.flatten(2).float().sub_(mean).div_(std)
        return rows.to(self._precision).view(image.shape).permute(0, 3, 1, 2)
