"""Checkpoint files: published ones are imported; damaged, foreign and hostile ones leave nothing in the cache."""

from __future__ import annotations

import io
import itertools
import json
import os
import pickle
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy._core.multiarray import scalar
from safetensors.torch import save_file

from flairsearch.core.errors import WeightsError
from flairsearch.model import architecture, checkpoints
from flairsearch.model.conv_tower import Stage
from flairsearch.model.flair import FLAIR, ModelConfig, load_model
from tests.support.random_flair import BIG, CONV, SMALL, SUM, big_flair, random_flair, random_pictures, save_flair

torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLAIRSEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


class _Numpy1Pickler(pickle._Pickler):
    """Pickles numpy's scalar under numpy 1's name, as in the published files."""

    def save_global(self, obj: object, name: str | None = None) -> None:
        if obj is scalar:
            self.write(b"cnumpy.core.multiarray\nscalar\n")
            self.memoize(obj)
        else:
            super().save_global(obj, name)


class _Numpy1Pickle:
    Pickler = _Numpy1Pickler


def publish(state: dict[str, torch.Tensor], path: Path, **more: object) -> Path:
    """Write a file in the layout of the published ones."""
    checkpoint = {
        "epoch": 30,
        "name": "published",
        "state_dict": {f"module.{name}": tensor for name, tensor in state.items()},
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": np.float64(5e-4)}]},
        "scaler": {"scale": 65536.0, "growth_factor": 2.0},
    }
    torch.save(checkpoint | more, path, pickle_module=_Numpy1Pickle)
    return path


def hollow_state() -> dict[str, torch.Tensor]:
    """All tensors of a published model, each expanded from a single number."""
    return {
        name: torch.zeros(()).expand(shape)
        for name, shape in architecture.expected_tensors(checkpoints.published_config()).items()
    }


def check_refused(path: Path, cache: Path, words: str | None = None) -> str:
    """Check that a file is refused with one line and that the cache stays empty; return the line."""
    with pytest.raises(WeightsError, match=words) as caught:
        checkpoints.import_file(path)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 500
    assert not cache.exists() or not list(cache.iterdir())
    return str(caught.value)


# -- The tensors of a FLAIR model


@pytest.mark.parametrize(
    "config", [SMALL, CONV, SUM, checkpoints.BUNDLED, BIG], ids=["small", "conv", "sum", "bundled", "big"]
)
def test_expected_tensors_are_the_models(config: object) -> None:
    if config == checkpoints.BUNDLED:
        text, _ = checkpoints.describe(checkpoints.bundled_file())
        state = checkpoints.read(checkpoints.bundled_file())[0]
    else:
        model = big_flair() if config == BIG else random_flair(config)
        text, state = model.config.to_json(), model.flair_state()
    assert architecture.expected_tensors(text) == {name: tuple(tensor.shape) for name, tensor in state.items()}


@pytest.mark.parametrize(
    "stages",
    [
        ((1, 3, 4, 1, 2), (1, 3, 4, 1, 2), (1, 5, 4, 1, 2), (1, 3, 4, 1, 2)),
        ((2, 5, 8, 2, 1), (1, 3, 4, 3, 2), (2, 5, 8, 1, 2), (3, 3, 8, 1, 1), (2, 3, 16, 2, 2), (2, 5, 8, 2, 2)),
        ModelConfig.from_json((Path(__file__).parents[2] / "training" / "flair-small.json").read_text()).conv_stages,
    ],
)
def test_expected_tensors_of_other_stages(stages: tuple[Stage, ...]) -> None:
    state = FLAIR(replace(CONV, conv_stages=stages)).flair_state()
    config = replace(CONV, conv_stages=stages).to_json()
    assert architecture.expected_tensors(config) == {name: tuple(tensor.shape) for name, tensor in state.items()}


def test_published_size() -> None:
    """313 tensors, 150,674,434 parameters."""
    shapes = architecture.expected_tensors(checkpoints.published_config())
    assert len(shapes) == 313
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 150_674_434
    assert shapes["visual_proj.attn.in_proj_weight"] == (1536, 512)
    assert shapes["visual.conv1.weight"] == (768, 3, 16, 16)


@pytest.mark.slow
def test_published_checkpoint_is_imported(tmp_path: Path, cache: Path) -> None:
    model = big_flair()
    path = publish(dict(model.flair_state()), tmp_path / "flair-cc3m-recap.pt")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, mmap=True)  # It holds a numpy scalar, which torch refuses by default.
    found = checkpoints.import_file(path)
    path.unlink()
    assert found.name == "flair-cc3m-recap"
    assert checkpoints.default_name() == "flair-cc3m-recap"
    assert 602e6 < found.path.stat().st_size < 604e6  # The optimizer is dropped.
    assert [file.name for file in cache.iterdir()] == ["flair-cc3m-recap.safetensors"]
    loaded = load_model("flair-cc3m-recap")
    picture = torch.from_numpy(random_pictures(1, 224)).permute(0, 3, 1, 2) / 100 - 1
    tokens = model.tokenize(["a red ball"])
    with torch.inference_mode():
        assert torch.equal(loaded.get_logits(picture, tokens)[0], model.get_logits(picture, tokens)[0])
    state = model.flair_state()
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.flair_state().items())


# -- Weights files


def is_same_model(a: FLAIR, b: FLAIR) -> bool:
    mine, other = a.flair_state(), b.flair_state()
    return mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in mine)


def test_weights_file_is_restored(tmp_path: Path, cache: Path) -> None:
    model = random_flair()
    path = save_flair(model, tmp_path / "mine.safetensors")
    loaded = load_model(path)
    assert is_same_model(loaded, model)
    assert loaded.config == SMALL
    assert loaded.name == "mine"
    assert is_same_model(load_model("mine"), model)  # It is read from the cache now.
    assert ("mine", str(cache / "mine.safetensors")) in checkpoints.list_models()
    path.unlink()
    assert is_same_model(load_model(cache / "mine.safetensors"), model)


def test_convolutional_weights_file_is_restored(tmp_path: Path, cache: Path) -> None:
    model = random_flair(CONV)
    path = save_flair(model, tmp_path / "conv.safetensors")
    loaded = load_model(path)
    assert is_same_model(loaded, model)
    assert loaded.config == CONV
    assert hash(loaded.config) == hash(CONV)  # Stages are tuples, not lists as in JSON.
    assert checkpoints.describe(cache / "conv.safetensors") == (CONV.to_json(), loaded.weights_hash)


def test_transformers_file_without_stages_is_read(tmp_path: Path) -> None:
    """Older configurations lack the fields of convolutional towers, classes and the ranking score."""
    later = ("conv_stages", "classes", "score")
    config = {name: size for name, size in json.loads(SMALL.to_json()).items() if name not in later}
    assert ModelConfig.from_json(json.dumps(config)) == SMALL
    save_file(dict(random_flair().flair_state()), tmp_path / "old.safetensors", {"config": json.dumps(config)})
    assert load_model(tmp_path / "old.safetensors").config == SMALL


SEEN = [0, 256, 320, 1929, 49406, 49407]


def test_seen_tokens_are_restored(tmp_path: Path, cache: Path) -> None:
    path = save_flair(random_flair(CONV), tmp_path / "seen.safetensors", {*SEEN})
    plain = save_flair(random_flair(CONV), tmp_path / "plain.safetensors")
    assert checkpoints.seen_tokens(path) == frozenset(SEEN)
    assert checkpoints.seen_tokens(plain) is None
    assert checkpoints.seen_tokens(save_flair(random_flair(CONV), tmp_path / "none.safetensors", [])) == frozenset()
    assert checkpoints.describe(path) == checkpoints.describe(plain)  # The hash does not depend on the list.
    imported = checkpoints.import_file(path).path
    assert imported.parent == cache
    assert checkpoints.seen_tokens(imported) == frozenset(SEEN)
    assert checkpoints.seen_tokens(checkpoints.import_file(plain).path) is None
    state, config, weights_hash = checkpoints.read(imported)
    assert {k: tuple(v.shape) for k, v in state.items()} == architecture.expected_tensors(config)
    assert weights_hash == checkpoints.describe(path)[1]


def test_a_seen_list_is_added_to_imported_weights(tmp_path: Path) -> None:
    """The cache has the weights without a list; importing them again with a list stores it."""
    path = save_flair(random_flair(CONV), tmp_path / "x.safetensors")
    assert checkpoints.seen_tokens(checkpoints.import_file(path).path) is None
    save_flair(random_flair(CONV), path, SEEN)
    assert checkpoints.seen_tokens(checkpoints.import_file(path).path) == frozenset(SEEN)


def test_hash_names_the_weights(tmp_path: Path) -> None:
    first, twin, other = (
        checkpoints.describe(save_flair(random_flair(seed=seed), tmp_path / f"{name}.safetensors"))[1]
        for seed, name in ((0, "first"), (0, "twin"), (1, "other"))
    )
    assert first == twin != other
    swapped = dict(random_flair(seed=0).flair_state())
    swapped["logit_scale"], swapped["logit_bias"] = swapped["logit_bias"], swapped["logit_scale"]
    checkpoints.save(swapped, SMALL.to_json(), "swapped", tmp_path / "swapped.safetensors")
    assert checkpoints.describe(tmp_path / "swapped.safetensors")[1] != first


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_load_as_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {name: tensor.to(dtype) for name, tensor in random_flair().flair_state().items()}
    save_file(state, tmp_path / "half.safetensors", {"config": SMALL.to_json()})
    loaded = load_model(tmp_path / "half.safetensors").flair_state()
    assert all(torch.equal(loaded[name], tensor.float()) for name, tensor in state.items())


def test_missing_logit_bias_is_zero(tmp_path: Path) -> None:
    state = dict(random_flair().flair_state())
    del state["logit_bias"]
    save_file(state, tmp_path / "old.safetensors", {"config": SMALL.to_json()})
    assert float(load_model(tmp_path / "old.safetensors").towers.logit_bias) == 0


def test_import_under_another_name(tmp_path: Path) -> None:
    path = save_flair(random_flair(), tmp_path / "a.safetensors")
    assert checkpoints.import_file(path, "flair-merged30m").name == "flair-merged30m"
    for name in ("", "..", "a/b", "-x", checkpoints.BUNDLED, "x" * 200):
        with pytest.raises(WeightsError):
            checkpoints.import_file(path, name or "/")


def test_default_is_the_best_model_in_the_cache(cache: Path) -> None:
    assert checkpoints.default_name() == checkpoints.BUNDLED == "flair-small"
    cache.mkdir(parents=True)
    for name in ("another", "flair-cc3m-recap", "flair-yfcc15m-recap", "flair-merged30m"):
        (cache / f"{name}.safetensors").write_bytes(b"")
        assert checkpoints.default_name() == (checkpoints.BUNDLED if name == "another" else name)


# -- Refused files


@pytest.mark.parametrize("change", ["missing", "extra", "shape", "empty", "number", "integers", "sparse"])
@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_wrong_checkpoint(tmp_path: Path, cache: Path, change: str) -> None:
    state = hollow_state()
    if change == "missing":
        del state["visual_proj.ln_q.weight"]
    elif change == "extra":
        state["visual_proj.ln_x.weight"] = torch.zeros(1)
    elif change == "shape":
        state["positional_embedding"] = torch.zeros(78, 512)
    elif change == "empty":
        state = {}
    elif change == "number":
        state["logit_scale"] = 4.6  # type: ignore[assignment]
    elif change == "integers":
        state["ln_final.weight"] = torch.ones(512, dtype=torch.int64)
    else:
        state["text_post.proj"] = torch.zeros(512, 512).to_sparse()
    message = check_refused(publish(state, tmp_path / "x.pt"), cache)
    named = {"missing": "visual_proj.ln_q.weight", "extra": "visual_proj.ln_x.weight", "shape": "[78, 512]"}
    assert named.get(change, "") in message


@pytest.mark.parametrize("change", ["missing", "extra", "shape", "integers"])
def test_wrong_safetensors(tmp_path: Path, cache: Path, change: str) -> None:
    state = dict(random_flair().flair_state())
    if change == "missing":
        del state["ln_final.bias"]
    elif change == "extra":
        state["optimizer"] = torch.zeros(1)
    elif change == "shape":
        state["ln_final.bias"] = torch.zeros(33)
    else:
        state["ln_final.bias"] = torch.zeros(32, dtype=torch.int32)
    path = tmp_path / "x.safetensors"
    save_file(state, path, {"config": SMALL.to_json()})
    check_refused(path, cache)


def test_file_without_configuration_is_taken_for_a_published_model(tmp_path: Path, cache: Path) -> None:
    save_file(dict(random_flair().flair_state()), tmp_path / "x.safetensors")
    message = check_refused(tmp_path / "x.safetensors", cache)
    assert "lacks" in message


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.99])
def test_truncated(tmp_path: Path, cache: Path, share: float) -> None:
    for path in (publish(hollow_state(), tmp_path / "x.pt"), save_flair(random_flair(), tmp_path / "x.safetensors")):
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])
        check_refused(path, cache)


DAMAGED_LISTS = {
    "a list of ids": "[1, 2]",
    "half a byte": "0f7",
    "null": "null",
    "no digits": "0g",
    "signed": "-1",
    "too long": "00" * 10_000,
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("name", DAMAGED_LISTS)
def test_damaged_seen_list(tmp_path: Path, cache: Path, name: str) -> None:
    path = tmp_path / "x.safetensors"
    metadata = {"config": CONV.to_json(), "name": "x", "hash": "0" * 64, "seen": DAMAGED_LISTS[name]}
    save_file(dict(random_flair(CONV).flair_state()), path, metadata)
    assert "seen" in check_refused(path, cache)
    cache.mkdir(parents=True, exist_ok=True)
    path.rename(cache / "planted.safetensors")
    with pytest.raises(WeightsError) as caught:
        load_model("planted")
    assert len(str(caught.value).splitlines()) == 1


GOOD_STAGE = [1, 3, 4, 1, 2]


def stages_with(stage: object) -> list[object]:
    """Four stages, of which only the first may be invalid."""
    return [stage, GOOD_STAGE, GOOD_STAGE, GOOD_STAGE]


BAD_STAGES: dict[str, object] = {
    "three halvings": [GOOD_STAGE] * 3,
    "five halvings": [GOOD_STAGE] * 5,
    "no halving": [[1, 3, 4, 1, 1]],
    "stride 3": [*[GOOD_STAGE] * 4, [1, 3, 4, 1, 3]],
    "stride 0": [*[GOOD_STAGE] * 4, [1, 3, 4, 1, 0]],
    "no expansion": stages_with([0, 3, 4, 1, 2]),
    "no kernel": stages_with([1, 0, 4, 1, 2]),
    "a kernel of 1": stages_with([1, 1, 4, 1, 2]),
    "an even kernel": stages_with([1, 4, 4, 1, 2]),
    "a kernel of 7": stages_with([1, 7, 4, 1, 2]),
    "a negative kernel": stages_with([1, -3, 4, 1, 2]),
    "huge kernel": stages_with([1, 1 << 40, 4, 1, 2]),
    "no channels": stages_with([1, 3, 0, 1, 2]),
    "no blocks": stages_with([1, 3, 4, 0, 2]),
    "negative": stages_with([1, 3, -4, 1, 2]),
    "negative blocks": stages_with([1, 3, 4, -1, 2]),
    "huge expansion": stages_with([1 << 40, 3, 4, 1, 2]),
    "huge channels": stages_with([1, 3, 1 << 40, 1, 2]),
    "huge blocks": stages_with([1, 3, 4, 1 << 40, 2]),
    "half": stages_with([1, 3, 4.5, 1, 2]),
    "float": stages_with([1, 3, 4.0, 1, 2]),
    "a kernel of floats": stages_with([1, 3.0, 4, 1, 2]),
    "true": stages_with([True, 3, 4, 1, 2]),
    "strings": [["1", "3", "4", "1", "2"]] * 4,
    "words": ["abcde"] * 4,
    "nested": [[[1], [3], [4], [1], [2]]] * 4,
    "four numbers": [[1, 4, 1, 2]] * 4,
    "six numbers": [[*GOOD_STAGE, 1]] * 4,
    "one of four": stages_with([1, 4, 1, 2]),
    "flat": GOOD_STAGE,
    "null inside": [[None, 3, 4, 1, 2]] * 4,
    "a null": [None, *[GOOD_STAGE] * 4],
    "null": None,
    "zero": 0,
    "false": False,
    "yes": True,
    "a number": 3,
    "text": "[[1, 3, 4, 1, 2]]",
    "an object": {"a": 1},
    "objects": [{"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}] * 4,
    "very long": [*[GOOD_STAGE] * 4, *[[1, 3, 4, 1, 1]] * 20_000],
    "deep": json.loads("[" * 500 + "]" * 500),
}


def test_the_unchanged_stages_are_valid() -> None:
    config = json.dumps({**json.loads(CONV.to_json()), "conv_stages": stages_with(GOOD_STAGE)})
    assert ModelConfig.from_json(config).conv_stages == ((1, 3, 4, 1, 2),) * 4
    assert architecture.expected_tensors(config)["visual.trunk.4.depthwise.weight"] == (4, 1, 3, 3)


def test_bad_stages_are_refused(subtests: pytest.Subtests) -> None:
    """Falsy values that are no list are refused even for a transformer, whose other fields are valid."""
    for name, stages in BAD_STAGES.items():
        with subtests.test(name):
            for sizes in (CONV, SMALL):
                config = json.dumps({**json.loads(sizes.to_json()), "conv_stages": stages})
                for call in (architecture.expected_tensors, ModelConfig.from_json):
                    with pytest.raises(WeightsError) as caught:
                        call(config)
                    assert len(str(caught.value).splitlines()) == 1
                    assert len(str(caught.value)) < 300


BAD_CHANGES = [{"patch_size": 16}, {"patch_size": 8}, {"patch_size": None}, {"vision_heads": -1}]


def test_bad_convolutional_configuration(subtests: pytest.Subtests) -> None:
    good = json.loads(CONV.to_json())
    for changes, missing in itertools.product(BAD_CHANGES, (False, True)):
        with subtests.test(f"{changes}{' missing' if missing else ''}"):
            config = {k: v for k, v in good.items() if k not in changes} if missing else good | changes
            for call in (architecture.expected_tensors, ModelConfig.from_json):
                if missing and "vision_heads" in changes and call == architecture.expected_tensors:
                    continue  # No tensor's shape depends on vision_heads.
                with pytest.raises(WeightsError):
                    call(json.dumps(config))


@pytest.mark.parametrize("size", [31, 48, 95, 97, 112, 2080])
def test_image_size_that_is_not_a_multiple_of_32_is_refused(size: int) -> None:
    """With 48 pixels the tower would round up and the patch grid down. 2080 is a multiple, but too large."""
    for call in (architecture.expected_tensors, ModelConfig.from_json):
        with pytest.raises(WeightsError, match="multiple of 32 up to 2048"):
            call(replace(CONV, image_size=size).to_json())
        call(replace(CONV, image_size=2048).to_json())


@pytest.mark.parametrize("classes", [-1, 1 << 16, 1.5, True, "7", None, [7]])
def test_bad_number_of_classes(classes: object) -> None:
    config = json.dumps({**json.loads(CONV.to_json()), "classes": classes})
    for call in (architecture.expected_tensors, ModelConfig.from_json):
        with pytest.raises(WeightsError, match="classes out of range"):
            call(config)


def test_a_transformer_has_no_classes() -> None:
    for call in (architecture.expected_tensors, ModelConfig.from_json):
        with pytest.raises(WeightsError, match="classes are for convolutional towers"):
            call(replace(SMALL, classes=7).to_json())
        call(replace(SMALL, classes=0).to_json())


BAD_SCORES = ["mean", "", "SUM", None, 0, 0.5, True, ["sum"], {"sum": 1}]


def test_bad_score(subtests: pytest.Subtests) -> None:
    for score in BAD_SCORES:
        with subtests.test(repr(score)):
            for sizes in (CONV, SMALL):
                config = json.dumps({**json.loads(sizes.to_json()), "score": score})
                for call in (architecture.expected_tensors, ModelConfig.from_json):
                    with pytest.raises(WeightsError) as caught:
                        call(config)
                    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("sizes", [CONV, SMALL], ids=["conv", "transformer"])
def test_the_ranking_score_sets_the_global_share(sizes: ModelConfig, tmp_path: Path, cache: Path) -> None:
    """The score is stored in the file; no tensor depends on it, and without the field it is FLAIR's."""
    shares = {}
    for score in ("flair", "sum"):
        path = save_flair(random_flair(replace(sizes, score=score)), tmp_path / f"{score}.safetensors")
        model = load_model(path)
        assert model.config.score == score
        shares[score] = model.folded_pool.weights.global_share
    assert shares == {"flair": 0.0, "sum": 0.5}
    config = {name: size for name, size in json.loads(sizes.to_json()).items() if name != "score"}
    save_file(dict(random_flair(sizes).flair_state()), tmp_path / "silent.safetensors", {"config": json.dumps(config)})
    assert load_model(tmp_path / "silent.safetensors").folded_pool.weights.global_share == 0
    expected = [architecture.expected_tensors(replace(sizes, score=score).to_json()) for score in shares]
    assert expected[0] == expected[1] == architecture.expected_tensors(json.dumps(config))


@pytest.mark.parametrize("name", ["conv", "text", "vision", "picture"])
def test_hostile_sizes_cost_little(name: str) -> None:
    """Huge sizes are refused or processed within 100 MB and 5 seconds: a small file must not fill the memory."""
    huge = 65535
    config = {
        "conv": replace(CONV, conv_stages=(*[(16, 5, 4095, 100, 2)] * 4, *[(16, 5, 4095, 100, 1)] * 96)),
        "text": replace(SMALL, text_layers=huge),
        "vision": replace(SMALL, vision_layers=huge),
        "picture": replace(SMALL, image_size=huge, embed_dim=huge, vocab_size=huge),
    }[name].to_json()
    began = time.process_time()
    tracemalloc.start()
    try:
        architecture.expected_tensors(config)
    except WeightsError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 100e6
    assert time.process_time() - began < 5


class _Trap:
    """An object that calls a function when it is unpickled."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self._call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self._call


TRAP_POSITIONS = ["optimizer", "epoch", "state_dict", "bare", "legacy"]
TRAP_KINDS = ["system", "open", "eval"]


def test_nothing_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests) -> None:
    for number, (position, kind) in enumerate(itertools.product(TRAP_POSITIONS, TRAP_KINDS)):
        with subtests.test(f"{kind} in {position}"), monkeypatch.context() as patch:
            folder = tmp_path / str(number)
            folder.mkdir()
            cache = folder / "cache" / "models"
            patch.setenv("FLAIRSEARCH_CACHE", str(folder / "cache"))
            target = folder / "executed"
            trap = {
                "system": _Trap(os.system, f"touch {target}"),
                "open": _Trap(open, str(target), "w"),
                "eval": _Trap(eval, f"open({str(target)!r}, 'w')"),
            }[kind]
            path = folder / "x.pt"
            if position == "bare":
                path.write_bytes(pickle.dumps({"state_dict": hollow_state(), "epoch": trap}))
            elif position == "legacy":
                torch.save({"state_dict": trap}, path, _use_new_zipfile_serialization=False)
            else:
                publish(hollow_state(), path, **{position: trap})
            check_refused(path, cache)
            assert not target.exists()
            if position == "epoch":
                torch.load(path, weights_only=False)  # Without the protection, the trap works.
                assert target.exists()


@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_anywhere(tmp_path: Path, cache: Path) -> None:
    """With any byte of the pickle changed, the file is refused with one line."""
    state = {name: tensor for name, tensor in hollow_state().items() if not name.startswith("visual.transformer")}
    whole = publish(state, tmp_path / "whole.pt").read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        parts = {info.filename: archive.read(info) for info in archive.infolist()}
    (name,) = (name for name in parts if name.endswith("data.pkl"))
    for _ in range(150):
        data = bytearray(parts[name])
        data[rng.integers(len(data))] = rng.integers(256)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for part, content in parts.items():
                archive.writestr(part, bytes(data) if part == name else content)
        check_refused(path, cache)


def header(content: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(content) if length is None else length) + content


def tensor_header(offsets: list[int], shape: list[int], config: str | None = None) -> bytes:
    metadata = {} if config is None else {"__metadata__": {"config": config}}
    return header(json.dumps({**metadata, "x": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}).encode())


HOSTILE = {
    "empty": b"",
    "short": b"\x01\x02",
    "garbage": bytes(np.random.default_rng(0).integers(0, 256, 4096, dtype=np.uint8)),
    "huge length": header(b"{}", 1 << 63),
    "length of 50 MB": header(b"{}", 50 << 20),
    "not JSON": header(b"hello, world"),
    "not UTF-8": header(b'{"\xff\xfe": 1}'),
    "a list": header(b"[1, 2]"),
    "a number": header(b"7"),
    "deep": header(b"[" * 200_000),
    "metadata is a list": header(b'{"__metadata__": [1]}'),
    "config is no JSON": header(b'{"__metadata__": {"config": "{"}}'),
    "config is a list": header(b'{"__metadata__": {"config": "[]"}}'),
    "config is deep": header(json.dumps({"__metadata__": {"config": "[" * 100_000}}).encode()),
    "beyond the end": tensor_header([0, 1 << 40], [1 << 38], SMALL.to_json()),
    "backwards": tensor_header([8, 0], [2], SMALL.to_json()),
    "shape overflows": tensor_header([0, 4], [1 << 62, 1 << 62], SMALL.to_json()),
    "zero patch": tensor_header([0, 4], [1], SMALL.to_json().replace('"patch_size": 16', '"patch_size": 0')) + b"0000",
    "endless layers": tensor_header([0, 4], [1], SMALL.to_json().replace('layers": 2', 'layers": 1000000000'))
    + b"0000",
    "no sizes": tensor_header([0, 4], [1], '{"embed_dim": "a"}') + b"0000",
}


def test_hostile_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests) -> None:
    for number, (name, content) in enumerate(HOSTILE.items()):
        with subtests.test(name), monkeypatch.context() as patch:
            folder = tmp_path / str(number)
            folder.mkdir()
            cache = folder / "cache" / "models"
            patch.setenv("FLAIRSEARCH_CACHE", str(folder / "cache"))
            path = folder / "x.safetensors"
            path.write_bytes(content)
            check_refused(path, cache)
            with pytest.raises(WeightsError):
                checkpoints.describe(path)
            cache.mkdir(parents=True, exist_ok=True)
            path.rename(cache / "planted.safetensors")  # The cache itself may hold a damaged file.
            with pytest.raises(WeightsError):
                load_model("planted")


def test_damaged_header_anywhere(tmp_path: Path) -> None:
    """With one byte of the header changed, the file is refused with one line, or loaded if the byte does not matter."""
    whole = save_flair(random_flair(), tmp_path / "whole.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(100):
        data = bytearray(whole)
        data[rng.integers(8 + length)] = rng.integers(256)
        (tmp_path / "x.safetensors").write_bytes(data)
        try:
            checkpoints.import_file(tmp_path / "x.safetensors")
            outcomes.add("loaded")
        except WeightsError as error:
            outcomes.add(f"refused in {len(str(error).splitlines())} lines")
    assert "refused in 1 lines" in outcomes
    assert outcomes <= {"refused in 1 lines", "loaded"}


# -- Names


@pytest.mark.parametrize("name", ["flair-huge", "", "..", "no/such/file.pt", "~nobody-here/x.pt", "x" * 300, "a\0b"])
def test_unknown_name(name: str) -> None:
    for call in (partial(checkpoints.find, name), partial(load_model, name)):
        with pytest.raises(WeightsError) as caught:
            call()
        assert len(str(caught.value).splitlines()) == 1
    if name == "flair-huge":
        assert all(known in str(caught.value) for known in (checkpoints.BUNDLED, "flair-merged30m", ".safetensors"))
        assert "flair-tiny" not in str(caught.value)


def test_pull_refuses_unpublished_names() -> None:
    with pytest.raises(WeightsError, match="flair-merged30m"):
        checkpoints.pull(checkpoints.BUNDLED)
    with pytest.raises(WeightsError, match="flair-merged30m"):
        checkpoints.pull("flair-tiny")


def test_a_retired_model_raises_what_to_do() -> None:
    """The error, of one line, names the successor and says how to rebuild an index."""
    assert checkpoints.RETIRED == ("flair-tiny",)
    calls = (checkpoints.find, partial(checkpoints.find, download=False), load_model)
    for call in calls:
        with pytest.raises(WeightsError, match=r"^the model flair-tiny is no longer .*flair-small.* - .*") as caught:
            call("flair-tiny")
        assert "flairsearch index --rebuild" in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
    assert "flair-tiny" not in dict(checkpoints.list_models())
    assert checkpoints.successor("flair-tiny") is None
    for name in (checkpoints.BUNDLED, *checkpoints.PUBLISHED, "mine"):
        assert checkpoints.successor(name) == name


def test_a_retired_model_in_the_cache_is_used(tmp_path: Path, cache: Path) -> None:
    kept = random_flair(CONV)
    path = save_flair(kept, tmp_path / "flair-tiny.safetensors")
    assert checkpoints.import_file(path).path == cache / "flair-tiny.safetensors"
    assert checkpoints.find("flair-tiny").path == cache / "flair-tiny.safetensors"
    assert is_same_model(load_model("flair-tiny"), kept)
    assert checkpoints.successor("flair-tiny") == "flair-tiny"
    assert "flair-tiny" in dict(checkpoints.list_models())


def test_pull_without_a_hub(tmp_path: Path) -> None:
    """Offline, one line says what to do, and no partial file is left."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    command = [sys.executable, "-m", "flairsearch", "models", "pull", "flair-cc3m-recap"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "models import flair-cc3m-recap.pt" in done.stderr
    assert not list(tmp_path.rglob("*.safetensors"))


def test_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_flair(random_flair(), tmp_path / "x.safetensors")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FLAIRSEARCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(WeightsError) as caught:
        checkpoints.import_file(path)
    assert len(str(caught.value).splitlines()) == 1
