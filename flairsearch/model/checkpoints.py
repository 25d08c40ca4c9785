"""Find the weights file of a model by name (bundled, in the user's cache, on the hub), and import foreign checkpoints.

A weights file of flairsearch is a safetensors file whose metadata hold `config` (JSON), `name` and `hash`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flairsearch.core.atomic_file import atomic_path
from flairsearch.core.errors import WeightsError
from flairsearch.core.paths import cache_folder
from flairsearch.model.architecture import MAX_SIZE, check_tensors, expected_tensors
from flairsearch.model.published_checkpoints import read_published
from flairsearch.model.safetensors_file import SafetensorsFile, check_file, read_metadata

if TYPE_CHECKING:
    from torch import Tensor

BUNDLED = "flair-small"
RETIRED = ("flair-tiny",)  # These models were bundled with earlier versions.
HUB_REPOSITORY = "xiaorui638/flair"
# The best model comes first.
PUBLISHED = ("flair-merged30m", "flair-yfcc15m-recap", "flair-cc12m-recap", "flair-cc3m-recap")
_PUBLISHED_CONFIG = "vit-b-16-flair.json"
_REQUIRED_METADATA = frozenset({"config", "name", "hash"})  # Every weights file of flairsearch has these.
_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class WeightsFile:
    """A weights file on this machine, with the name of its model."""

    name: str
    path: Path


# -- From names to files


def bundled_file() -> Path:
    """Return the path of the model that comes with the package."""
    return Path(str(resources.files("flairsearch.model") / "data" / f"{BUNDLED}.safetensors"))


def default_name() -> str:
    """Return the best published model already in the cache, else the bundled one; nothing is downloaded."""
    return next((name for name in PUBLISHED if (cache_folder() / f"{name}.safetensors").is_file()), BUNDLED)


def find(name: str | Path, download: bool = True) -> WeightsFile:
    """Find the weights file of a model, given its name or a path.

    A published model is downloaded if it is not in the cache; a foreign file is imported into the cache.
    Raises WeightsError when the name is unknown, when the model is not in the cache and `download` is false, or when
    the file is not a FLAIR checkpoint.
    """
    text = os.fspath(name)
    if text == BUNDLED and bundled_file().is_file():
        return WeightsFile(BUNDLED, bundled_file())
    path = Path(os.path.expanduser(text))
    if path.suffix in (".safetensors", ".pt") or os.sep in text:
        is_imported = path.absolute() == bundled_file() or path.absolute().parent == cache_folder().absolute()
        return WeightsFile(path.stem, path) if is_imported else import_file(path)
    cached = cache_folder() / f"{text}.safetensors"
    if _NAME_PATTERN.fullmatch(text) and cached.is_file():
        return WeightsFile(text, cached)
    if text in RETIRED:
        raise WeightsError(
            f"the model {text} is no longer part of flairsearch, {BUNDLED} is in its place - "
            "make an index of it anew: flairsearch index --rebuild"
        )
    if text in PUBLISHED and download:
        return pull(text)
    if text in PUBLISHED:
        raise WeightsError(f"the model {text} is not on this machine - run flairsearch models pull {text}")
    known = ", ".join((BUNDLED, *PUBLISHED))
    raise WeightsError(f"no model named {text!r} - known are {known}; or give a .safetensors or .pt file")


def successor(name: str) -> str | None:
    """Return the model to rebuild an index with: the same one, or None (the default) if it no longer exists."""
    return None if name in RETIRED and not (cache_folder() / f"{name}.safetensors").is_file() else name


def list_models() -> list[tuple[str, str]]:
    """List the bundled, published and imported models as (name, location)."""
    rows = {BUNDLED: "bundled"} if bundled_file().is_file() else {}
    rows |= dict.fromkeys(PUBLISHED, f"hub: flairsearch models pull NAME ({HUB_REPOSITORY}, 1.8 GB each)")
    if cache_folder().is_dir():
        rows |= {file.stem: str(file) for file in sorted(cache_folder().glob("*.safetensors"))}
    return list(rows.items())


def pull(name: str) -> WeightsFile:
    """Download a published checkpoint, import it, and delete the download; the hub's client shows a progress bar.

    Raises WeightsError when the name is not published or the hub cannot be reached.
    """
    if name not in PUBLISHED:
        raise WeightsError(f"no published model named {name!r} - the published ones are {', '.join(PUBLISHED)}")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    download = cache_folder() / "download"
    try:
        file = hf_hub_download(HUB_REPOSITORY, f"{name}.pt", local_dir=download)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise WeightsError(
            f"{name} could not be downloaded from the model hub ({type(error).__name__}) - copy {name}.pt here and run "
            f"'flairsearch models import {name}.pt', or use --model {BUNDLED}"
        ) from error
    found = import_file(Path(file), name)
    shutil.rmtree(download)
    return found


# -- Reading and importing


def describe(path: Path) -> tuple[str, str]:
    """Return the configuration (JSON) and the weights hash of a weights file, read from its header alone.

    Raises WeightsError when the file is missing, or carries no configuration.
    """
    metadata = read_metadata(path)
    if not metadata.keys() >= _REQUIRED_METADATA:
        raise WeightsError(f"{path} carries no model configuration - import it: flairsearch models import {path}")
    expected_tensors(metadata["config"])
    return metadata["config"], metadata["hash"]


def check(tensors: SafetensorsFile, config: str, path: Path) -> None:
    """Check the tensors of a file against its configuration.

    Raises WeightsError when a tensor is missing, unknown or of another shape.
    """
    check_tensors({name: tensors.shape(name) for name in tensors}, expected_tensors(config), str(path))


def read(path: Path) -> tuple[dict[str, Tensor], str, str]:
    """Read a weights file; return its tensors (float32), configuration (JSON) and weights hash.

    Raises WeightsError when the file is missing or truncated, or carries no configuration.
    """
    config, weights_hash = describe(path)
    return {name: tensor.float() for name, tensor in _read_safetensors(path)[0].items()}, config, weights_hash


def seen_tokens(path: Path) -> frozenset[int] | None:
    """Return the token ids of a model's training texts, from the file's header; None if it does not list them.

    Raises WeightsError when the list is damaged.
    """
    text = read_metadata(path).get("seen")
    if text is None:
        return None
    try:
        if len(text) > MAX_SIZE // 4:  # Each digit stands for four tokens.
            raise ValueError("too long")
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), bitorder="little")
    except ValueError:
        raise WeightsError(f"{path} has a damaged list of seen tokens - copy or download it again") from None
    return frozenset(np.flatnonzero(bits).tolist())


def save(state: Mapping[str, Tensor], config: str, name: str, path: Path, seen: Iterable[int] | None = None) -> None:
    """Write a weights file atomically.

    Its hash is the SHA-256 of the kind of ranking score, unless that is FLAIR's, and of all names and float32 values.
    seen: the token ids of the training texts, stored in the header; None: they are not listed.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {key: state[key].detach().cpu().contiguous() for key in sorted(state)}
    score = json.loads(config).get("score", "flair")
    digest = hashlib.sha256(b"" if score == "flair" else score.encode())
    for key, tensor in tensors.items():
        digest.update(key.encode() + tensor.float().numpy().tobytes())
    metadata = {"config": config, "name": name, "hash": digest.hexdigest()}
    try:
        with atomic_path(path, durable=False) as part:
            save_file(tensors, part, metadata if seen is None else metadata | {"seen": _pack_tokens(seen)})
    except SafetensorError as error:  # A full disk raises this error, too.
        raise OSError(str(error)) from None


def _pack_tokens(tokens: Iterable[int]) -> str:
    """Return a bit set of token ids as hexadecimal digits; token i is bit i % 8 of byte i // 8."""
    ids = np.array(sorted(tokens), np.int64)
    bits = np.zeros(ids.max(initial=-1) + 1, np.uint8)
    bits[ids] = 1
    return np.packbits(bits, bitorder="little").tobytes().hex()


def import_file(path: Path, name: str | None = None) -> WeightsFile:
    """Check a checkpoint (.pt as published, or .safetensors) and copy it to the cache as a weights file.

    A .safetensors file without a configuration is taken for a ViT-B-16-FLAIR, and so is every .pt file. Nothing is
    written to the cache unless all tensors have the right names and shapes.
    Raises WeightsError when they have not, when the file is missing or damaged, or when it holds more than tensors.
    """
    check_file(path)
    name = path.stem if name is None else name
    if not _NAME_PATTERN.fullmatch(name) or name == BUNDLED:
        raise WeightsError(
            f"{name!r} is no name for an imported model - rename the file (letters, digits, . _ -; not {BUNDLED})"
        )
    target = cache_folder() / f"{name}.safetensors"
    seen = None
    if path.suffix == ".pt":
        state, config = read_published(path), published_config()
    elif target.is_file() and read_metadata(path).keys() >= _REQUIRED_METADATA and _is_same_model(path, target):
        return WeightsFile(name, target)
    else:
        state, config = _read_safetensors(path)
        seen = seen_tokens(path)
    import torch

    state.setdefault("logit_bias", torch.zeros(()))
    check_tensors({key: tuple(tensor.shape) for key, tensor in state.items()}, expected_tensors(config), str(path))
    invalid = [key for key, tensor in state.items() if tensor.is_sparse or not tensor.is_floating_point()]
    if invalid:
        raise WeightsError(
            f"{path}: {min(invalid)} is no dense tensor of floating point numbers - use a FLAIR checkpoint"
        )
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        save(state, config, name, target, seen)
    except OSError as error:
        raise WeightsError(
            f"{target} cannot be written ({error.strerror or error}) - free space, or set FLAIRSEARCH_CACHE to a folder"
        ) from None
    return WeightsFile(name, target)


def _is_same_model(a: Path, b: Path) -> bool:
    return describe(a) == describe(b) and seen_tokens(a) == seen_tokens(b)


def published_config() -> str:
    """Return the configuration of the published models as JSON."""
    return (resources.files("flairsearch.model") / "data" / _PUBLISHED_CONFIG).read_text(encoding="utf-8")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], str]:
    """Read the tensors of a safetensors file, and its configuration or else that of the published models."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config = read_metadata(path).get("config") or published_config()
    try:
        return dict(load_file(path)), config
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is damaged ({error}) - copy or download it again") from None
