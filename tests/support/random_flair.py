"""Models with random weights in every parameter (gains and biases too), and FLAIR written out by hand as an oracle."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from flairsearch.model import checkpoints
from flairsearch.model.flair import FLAIR, ModelConfig

SMALL = ModelConfig(
    embed_dim=32,
    image_size=48,
    patch_size=16,
    vision_width=48,
    vision_layers=2,
    vision_heads=3,
    text_width=32,
    text_layers=2,
    text_heads=2,
    pool_heads=4,
)
CONV = replace(
    SMALL,
    image_size=96,
    patch_size=32,
    vision_width=24,
    vision_layers=0,
    vision_heads=0,
    conv_stages=((1, 3, 8, 1, 1), (3, 5, 8, 2, 2), (2, 3, 12, 1, 2), (1, 5, 12, 2, 2), (2, 3, 16, 2, 2)),
    classes=7,
)
SUM = replace(CONV, score="sum")
BIG = ModelConfig.from_json(checkpoints.published_config())


def random_flair(config: ModelConfig = SMALL, seed: int = 0, name: str = "random") -> FLAIR:
    """Initial weights, and noise on every vector and zero matrix: zero biases and unit gains hide mistakes.

    A trunk's are larger: with initial ones its features hardly know the picture.
    """
    torch.manual_seed(seed)
    model = FLAIR(config, name).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim <= 1 or not parameter.any():
            parameter += 0.2 * torch.randn_like(parameter)
        elif parameter.ndim == 4 and config.conv_stages:
            parameter *= 2.5
    return model


def pool_flair(dim: int, heads: int, seed: int = 0) -> FLAIR:
    """A pool of any size on towers as small as can be."""
    sizes = {"vision_width": 16, "vision_layers": 1, "vision_heads": 1, "text_width": 16, "text_layers": 1}
    return random_flair(replace(SMALL, embed_dim=dim, pool_heads=heads, text_heads=1, **sizes), seed)


@cache
def big_flair() -> FLAIR:
    """ViT-B-16-FLAIR, 150 million random parameters."""
    return random_flair(BIG)


def save_flair(model: FLAIR, path: Path, seen: Iterable[int] | None = None) -> Path:
    """As a file of ours."""
    checkpoints.save(model.flair_state(), model.config.to_json(), path.stem, path, seen)
    return path


def random_pictures(count: int, size: int, seed: int = 0) -> np.ndarray:
    """u8[count, size, size, 3]: smooth noise, as photos are smooth."""
    coarse = np.random.default_rng(seed).uniform(0, 255, (count, 3, 5, 5)).astype(np.float32)
    smooth = F.interpolate(torch.from_numpy(coarse), (size, size), mode="bilinear")
    return smooth.permute(0, 2, 3, 1).round().byte().numpy()


# -- FLAIR and its folded form in plain arithmetic, over tensors under their published names


def _norm(x: torch.Tensor, state: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    unit = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return unit * state[f"{name}.weight"] + state[f"{name}.bias"]


def _blocks(
    x: torch.Tensor, state: dict[str, torch.Tensor], prefix: str, layers: int, heads: int, causal: bool
) -> torch.Tensor:
    count, length, width = x.shape
    mask = torch.full((length, length), -torch.inf, dtype=x.dtype).triu(1) if causal else 0
    for i in range(layers):
        block = {k.removeprefix(f"{prefix}{i}."): v for k, v in state.items() if k.startswith(f"{prefix}{i}.")}
        qkv = _norm(x, block, "ln_1") @ block["attn.in_proj_weight"].T + block["attn.in_proj_bias"]
        q, k, v = qkv.reshape(count, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        share = (q @ k.transpose(-1, -2) / (width // heads) ** 0.5 + mask).softmax(-1)
        mixed = (share @ v).transpose(1, 2).reshape(count, length, width)
        x = x + mixed @ block["attn.out_proj.weight"].T + block["attn.out_proj.bias"]
        hidden = _norm(x, block, "ln_2") @ block["mlp.c_fc.weight"].T + block["mlp.c_fc.bias"]
        gelu = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
        x = x + gelu @ block["mlp.c_proj.weight"].T + block["mlp.c_proj.bias"]
    return x


def oracle_image(model: FLAIR, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """image f[B, 3, S, S] -> global f64[B, D], local f64[B, P, D]."""
    state, c = {k: v.double() for k, v in model.flair_state().items()}, model.config
    size, kernel = c.patch_size, state["visual.conv1.weight"]
    cut = image.double().unfold(2, size, size).unfold(3, size, size)  # [B, 3, G, G, p, p]
    patches = torch.einsum("bcghij,wcij->bghw", cut, kernel).flatten(1, 2)
    first = state["visual.class_embedding"].expand(len(image), 1, -1)
    x = torch.cat([first, patches], 1) + state["visual.positional_embedding"]
    x = _norm(x, state, "visual.ln_pre")
    x = _blocks(x, state, "visual.transformer.resblocks.", c.vision_layers, c.vision_heads, causal=False)
    x = _norm(x, state, "visual.ln_post") @ state["image_post.proj"]
    return x[:, 0], x[:, 1:]


def _convolve(
    x: torch.Tensor, state: dict[str, torch.Tensor], name: str, stride: int = 1, first: int = 0
) -> torch.Tensor:
    """Output i is the window centred on input `first` + `stride` i, zeros outside the picture: a sum over offsets.

    A kernel of one input channel is depthwise.
    """
    kernel, reach = state[f"{name}.weight"], state[f"{name}.weight"].shape[-1] // 2
    depthwise = kernel.shape[1] == 1 < x.shape[1]
    centres = torch.arange(first, x.shape[-1], stride)
    total = torch.zeros((), dtype=x.dtype)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            rows, columns = centres + dy, centres + dx
            there = ((rows >= 0) & (rows < x.shape[2]))[:, None] & (columns >= 0) & (columns < x.shape[3])
            seen = x[:, :, rows % x.shape[2]][:, :, :, columns % x.shape[3]] * there
            w = kernel[:, :, dy + reach, dx + reach]
            total = total + (seen * w[:, :1, None] if depthwise else torch.einsum("bchw,oc->bohw", seen, w))
    return total + state[f"{name}.bias"][:, None, None]


def oracle_conv_patches(model: FLAIR, image: torch.Tensor) -> torch.Tensor:
    """image f[B, 3, S, S] -> the convolutional trunk's output f64[B, P, W]."""
    state, image = {k: v.double() for k, v in model.flair_state().items()}, image.double()
    x = _convolve(image, state, "visual.trunk.0.0", stride=2, first=1).clamp(0, 6)
    unit, halvings = 1, 1
    for expansion, _, out, blocks, stride in model.config.conv_stages:
        for i in range(blocks):
            name, step, first = f"visual.trunk.{unit}", 1, 0
            if i == 0 and stride == 2:
                halvings += 1
                step, first = 2, 0 if halvings == 5 else 1
            hidden = x if expansion == 1 else _convolve(x, state, f"{name}.expand").clamp(0, 6)
            hidden = _convolve(hidden, state, f"{name}.depthwise", step, first).clamp(0, 6)
            y = _convolve(hidden, state, f"{name}.project")
            x = x + y if step == 1 and x.shape[1] == out else y
            unit += 1
    return _convolve(x, state, f"visual.trunk.{unit}.0").clamp(0, 6).flatten(2).transpose(1, 2)


def oracle_conv_tokens(model: FLAIR, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The trunk's output f[B, P, W] -> global f64[B, D], local f64[B, P, D]."""
    state = {k: v.double() for k, v in model.flair_state().items()}
    patches = patches.double()
    features = torch.cat([patches.sum(1, keepdim=True) / patches.shape[1], patches], 1)
    exponents = (features @ state["visual.classifier.weight"].T + state["visual.classifier.bias"]).exp()
    width = patches.shape[2]
    x = _norm(features, state, "visual.ln_post") @ state["image_post.proj"][:width]
    x = x + exponents / exponents.sum(-1, keepdim=True) @ state["image_post.proj"][width:]
    return x[:, 0], x[:, 1:]


def oracle_text(model: FLAIR, text: torch.Tensor) -> torch.Tensor:
    """text i64[T, 77] -> f64[T, D], all 77 positions computed."""
    state, c = {k: v.double() for k, v in model.flair_state().items()}, model.config
    x = state["token_embedding.weight"][text] + state["positional_embedding"]
    x = _blocks(x, state, "transformer.resblocks.", c.text_layers, c.text_heads, causal=True)
    x = _norm(x, state, "ln_final")
    return x[torch.arange(len(text)), text.argmax(-1)] @ state["text_post.proj"]


def oracle_pool(model: FLAIR, text: torch.Tensor, local: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """text f[D], local f[N, P, D] -> scores f64[N], attention f64[N, P]; nothing folded, the zero key written out."""
    state = {k.removeprefix("visual_proj."): v.double() for k, v in model.flair_state().items() if "visual_proj" in k}
    text, local = text.double(), local.double()
    count, patches, dim = local.shape
    heads = model.config.pool_heads
    names = ("ln_q", text[None, None]), ("ln_k", local), ("ln_v", local)
    parts = zip(names, state["attn.in_proj_weight"].chunk(3), state["attn.in_proj_bias"].chunk(3), strict=True)
    q, k, v = (_norm(x, state, name) @ w.T + b for (name, x), w, b in parts)
    zero = torch.zeros(count, 1, dim, dtype=torch.float64)
    k, v = (torch.cat([x, zero], 1).reshape(count, patches + 1, heads, -1).numpy() for x in (k, v))
    q = q.reshape(heads, -1).numpy()
    logits = np.einsum("hd,nphd->nhp", q, k, optimize=True) / (dim // heads) ** 0.5
    share = np.exp(logits - logits.max(-1, keepdims=True))
    share /= share.sum(-1, keepdims=True)
    mixed = np.einsum("nhp,nphd->nhd", share, v, optimize=True).reshape(count, dim)
    pooled = mixed @ state["attn.out_proj.weight"].numpy().T + state["attn.out_proj.bias"].numpy()
    t = text.numpy()
    cosine = pooled @ t / np.linalg.norm(pooled, axis=1) / np.linalg.norm(t)
    return cosine, share[..., :-1].mean(1)
