"""A training run -> the bundled model, float16, and its log: `python -m training.release --run training/runs/tiny`."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from flairsearch import weights

LOG = Path(__file__).parent / "flair-tiny.log.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a run the bundled model.")
    parser.add_argument("--run", type=Path, default=Path("training/runs/tiny"))
    args = parser.parse_args()
    trained = args.run / "weights.safetensors"
    state, config, _ = weights.read(trained)
    half = {name: tensor.half() for name, tensor in state.items()}
    out = weights.bundled_file()
    weights.save(half, config, weights.BUNDLED, out, weights.seen_tokens(trained))
    shutil.copyfile(args.run / "log.jsonl", LOG)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB; now regenerate its card: python -m training.card --help")


if __name__ == "__main__":
    main()
