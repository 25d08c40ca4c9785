"""Measure the bundled model on validation photos and write its card: `python -m training.card --help`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from flairsearch import weights
from flairsearch.model import load_model
from training.data import Annotations, read_photos
from training.evaluate import evaluate

_TEXT = """# flair-tiny

The small model that comes with flairsearch, so that it works offline and at once. It is a true FLAIR (two OpenCLIP
towers, text-conditioned attention pool with a zero key; arXiv 2412.03561), only small: {parameters:.1f} M parameters,
{megabytes:.1f} MB in float16, 224 px, 196 patches, {config}.

**What it is for**: trying the tool, tests, and measuring the engine. It knows what its 6,582 training photos show
(people, dogs, sports, streets, water, snow); most other words it has hardly seen. For real collections pull a
published model: `flairsearch models pull flair-merged30m`.

**Licence of these weights**: trained on Flickr8k, whose photos are for non-commercial research and education only, and
with the help of MobileNetV2's ImageNet weights (Apache-2.0), which are not contained. Use them for research and
education only. The code is MIT.

## Recipe

From scratch with `training/` of this repository, on 2 CPU cores. Data: Flickr8k's 6,582 training photos, five captions
each. Loss: sigmoid loss of all (image, text) pairs of a batch through the text-conditioned pool, the same of the global
tokens, and 4 x (1 - cosine) between a linear map of each patch and MobileNetV2's feature of the same place. Every other
step is on 2x2 mosaics whose captions each speak of one cell. AdamW, bfloat16 with float32 master weights, moving
average of the weights. The last weights were taken; none were chosen by their figures below.

{phases}

## Measured

Text to image on `val.json`, 509 photos, 2,545 captions (chance R@10: 2.0 %), and on mosaics of those photos, every
photo once, seed 0; float32, exhaustive. Made by `python -m training.card --archive images.tar --annotations val.json`.

| | R@1 | R@5 | R@10 | attention largest in the right cell |
|---|---|---|---|---|
{rows}
"""


def rows(figures: dict[str, dict[str, object]]) -> str:
    lines = []
    for name, modes in figures.items():
        cell = modes.get("attention largest in the right cell")
        for mode in ("full", "global"):
            recalls = modes[mode]
            assert isinstance(recalls, dict)
            shown = f"{cell} %" if cell is not None and mode == "full" else ""
            lines.append(f"| {name}, {mode} | " + " | ".join(f"{v} %" for v in recalls.values()) + f" | {shown} |")
    return "\n".join(lines)


def phases(runs: list[Path]) -> str:
    lines = []
    for run in runs:
        settings = json.loads((run / "settings.json").read_text())
        last = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
        keep = ("size", "steps", "pictures", "rate", "decay", "seed")
        text = ", ".join(f"{name} {settings[name]}" for name in keep)
        lines.append(f"* {text}: {last.pop('minutes')} minutes. Last line of its log: `{json.dumps(last)}`")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Evaluate the bundled model and write its card.")
    parser.add_argument("--archive", type=Path, required=True)
    parser.add_argument("--annotations", type=Path, required=True)
    parser.add_argument(
        "--runs", type=Path, nargs="+", default=[Path("training/runs/small"), Path("training/runs/full")]
    )
    args = parser.parse_args()
    annotations = Annotations.read(args.annotations)
    photos = read_photos(args.archive, annotations.names)
    model = load_model(weights.BUNDLED)
    figures = evaluate(model, photos, annotations)
    c = model.config
    text = _TEXT.format(
        parameters=sum(p.numel() for p in model.parameters()) / 1e6,
        megabytes=weights.bundled_file().stat().st_size / 1e6,
        config=f"image tower {c.vision_layers} x {c.vision_width}, text tower {c.text_layers} x {c.text_width}, "
        f"embedding {c.embed_dim}, {c.pool_heads} pool heads",
        phases=phases(args.runs),
        rows=rows(figures),
    )
    card = weights.bundled_file().with_suffix(".md")
    card.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
