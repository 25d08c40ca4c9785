"""The names and shapes of a model's tensors, from its configuration; neither torch nor the model is needed.

A weights file can thus be checked by its header alone, and a hostile configuration allocates nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from flairsearch.core.errors import WeightsError
from flairsearch.core.types import GLOBAL_SHARES

VOCABULARY_SIZE = 49408  # CLIP's tokenizer has this many token ids.
MAX_SIZE = 1 << 16  # This bounds every size in a configuration, and token ids.
_MAX_LAYERS = 1000  # Names are listed for every layer before any tensor is compared.
STEM_CHANNELS = 32  # Channels of a convolutional tower after its first convolution.
_CONV_PATCH_SIZE = 32  # Side of a convolutional tower's patch in pixels.


def check_config(config: object) -> dict[str, Any]:
    """Check a configuration read from JSON and return it.

    Raises ValueError or TypeError when it is not a configuration, or has sizes out of range.
    """
    if not isinstance(config, dict):
        raise TypeError("not an object")
    stages = config.get("conv_stages", [])
    if not isinstance(stages, list):
        raise TypeError("conv_stages is no list")
    convolutional = bool(stages)
    if config.get("score", "flair") not in GLOBAL_SHARES:
        raise ValueError(f"score is none of {', '.join(GLOBAL_SHARES)}")
    for name, size in config.items():
        if name == "score":
            continue
        minimum = 0 if name == "classes" or (convolutional and name in ("vision_layers", "vision_heads")) else 1
        limit = _MAX_LAYERS if name.endswith("_layers") else MAX_SIZE
        if name != "conv_stages" and (type(size) is not int or not minimum <= size < limit):
            raise ValueError(f"{name} out of range")
    if config.get("vocab_size", VOCABULARY_SIZE) < VOCABULARY_SIZE:
        raise ValueError(f"vocab_size below {VOCABULARY_SIZE}, the token ids of CLIP's texts")
    for width, heads in (("text_width", "text_heads"), ("embed_dim", "pool_heads"), ("vision_width", "vision_heads")):
        if config.get(heads) and config[width] % config[heads]:
            raise ValueError(f"{heads} must divide {width}")
    if convolutional:
        if len(stages) > 100 or not all(len(stage) == 5 and all(type(n) is int for n in stage) for stage in stages):
            raise ValueError("conv_stages is no list of five numbers each")
        if not all(
            0 < e <= 16 and k in (3, 5) and 0 < c < 4096 and 0 < n <= 100 and stride in (1, 2)
            for e, k, c, n, stride in stages
        ):
            raise ValueError("conv_stages out of range")
        # No tensor's shape depends on image_size, so it must be checked here.
        if config["image_size"] % _CONV_PATCH_SIZE or config["image_size"] > 2048:
            raise ValueError(f"image_size must be a multiple of {_CONV_PATCH_SIZE} up to 2048")
        if config.get("patch_size") != _CONV_PATCH_SIZE or sum(stage[4] == 2 for stage in stages) != 4:
            raise ValueError(f"conv_stages must come down to patches of {_CONV_PATCH_SIZE} pixels")
    elif config.get("classes"):
        raise ValueError("classes are for convolutional towers")
    return config


def expected_tensors(config: str) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a FLAIR model with this configuration, by name.

    Raises WeightsError when the text is not a configuration.
    """
    try:
        c = check_config(json.loads(config))
        return _tensors(c)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise WeightsError(f"not a model configuration ({error}) - use a file saved by flairsearch") from None


def _tensors(c: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors for a checked configuration."""
    dim, vision, text = c["embed_dim"], c["vision_width"], c["text_width"]
    shapes: dict[str, tuple[int, ...]] = {
        "positional_embedding": (c.get("context_length", 77), text),
        "token_embedding.weight": (c.get("vocab_size", VOCABULARY_SIZE), text),
        "logit_scale": (),
        "logit_bias": (),
        "text_post.proj": (text, dim),
        "image_post.proj": (vision + c.get("classes", 0), dim),
        "visual_proj.attn.in_proj_weight": (3 * dim, dim),
        "visual_proj.attn.in_proj_bias": (3 * dim,),
        "visual_proj.attn.out_proj.weight": (dim, dim),
        "visual_proj.attn.out_proj.bias": (dim,),
    }
    norms = {f"visual_proj.ln_{x}": dim for x in "qkv"} | {"ln_final": text, "visual.ln_post": vision}
    shapes |= _transformer_tensors("", text, c["text_layers"])
    if c.get("conv_stages"):
        shapes |= _conv_tensors(c["conv_stages"], vision, c.get("classes", 0))
    else:
        norms["visual.ln_pre"] = vision
        shapes |= _transformer_tensors("visual.", vision, c["vision_layers"]) | {
            "visual.class_embedding": (vision,),
            "visual.positional_embedding": ((c["image_size"] // c["patch_size"]) ** 2 + 1, vision),
            "visual.conv1.weight": (vision, 3, c["patch_size"], c["patch_size"]),
        }
    return shapes | {f"{norm}.{x}": (width,) for norm, width in norms.items() for x in ("weight", "bias")}


def _transformer_tensors(prefix: str, width: int, layers: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors of a transformer's blocks."""
    shapes: dict[str, tuple[int, ...]] = {}
    for i in range(layers):
        block = f"{prefix}transformer.resblocks.{i}"
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"{block}.{norm}.weight": (width,), f"{block}.{norm}.bias": (width,)}
        shapes |= {f"{block}.attn.in_proj_weight": (3 * width, width), f"{block}.attn.in_proj_bias": (3 * width,)}
        for layer, rows, columns in (
            ("attn.out_proj", width, width),
            ("mlp.c_fc", 4 * width, width),
            ("mlp.c_proj", width, 4 * width),
        ):
            shapes |= {f"{block}.{layer}.weight": (rows, columns), f"{block}.{layer}.bias": (rows,)}
    return shapes


def _conv_tensors(stages: list[list[int]], width: int, classes: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors of `conv_tower.ConvTower`."""
    shapes = {"visual.classifier.weight": (classes, width), "visual.classifier.bias": (classes,)}

    def add_convolution(name: str, out: int, into: int, kernel: int) -> None:
        shapes[f"visual.trunk.{name}.weight"] = (out, into, kernel, kernel)
        shapes[f"visual.trunk.{name}.bias"] = (out,)

    add_convolution("0.0", STEM_CHANNELS, 3, 3)
    unit, channels = 1, STEM_CHANNELS
    for expansion, kernel, out, blocks, _ in stages:
        for _ in range(blocks):
            hidden = channels * expansion
            if expansion > 1:
                add_convolution(f"{unit}.expand", hidden, channels, 1)
            add_convolution(f"{unit}.depthwise", hidden, 1, kernel)
            add_convolution(f"{unit}.project", out, hidden, 1)
            unit, channels = unit + 1, out
    add_convolution(f"{unit}.0", width, channels, 1)
    return shapes


def check_tensors(
    found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], where: str = "the model file"
) -> None:
    """Compare the shapes of the tensors found with those expected.

    Raises WeightsError naming the first tensor that is missing, unknown or of another shape.
    """
    missing, extra = expected.keys() - found.keys(), found.keys() - expected.keys()
    if missing:
        first = f"first {min(missing)[:100]!a}"
        raise WeightsError(f"{where} lacks {len(missing)} tensors, {first} - it is not a FLAIR checkpoint")
    if extra:
        first = f"first {min(extra)[:100]!a}"
        raise WeightsError(f"{where} has {len(extra)} unknown tensors, {first} - not a FLAIR checkpoint")
    for name in sorted(expected):
        if found[name] != expected[name]:
            raise WeightsError(
                f"{where}: {name} has shape {list(found[name])}, expected {list(expected[name])} - another architecture"
            )
