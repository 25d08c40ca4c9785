"""A training run's weights -> the bundled model, float16: `python -m training.release --run training/runs/full`."""

from __future__ import annotations

import argparse
from pathlib import Path

from safetensors.torch import load_file

from flairsearch import weights
from flairsearch.model import FLAIR, ModelConfig, resize_positions


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a run the bundled model.")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=Path("flairsearch/models/flair-tiny.json"))
    parser.add_argument("--out", type=Path, default=weights.bundled_file())
    args = parser.parse_args()
    config = ModelConfig.from_json(args.config.read_text())
    tensors = load_file(args.run / "weights.safetensors")
    model = FLAIR(config)
    model.load_flair_state(
        resize_positions({name: t for name, t in tensors.items() if not name.startswith("head.")}, config.grid)
    )
    state = {name: tensor.half() for name, tensor in model.flair_state().items()}
    weights.save(state, config.to_json(), weights.BUNDLED, args.out)
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
