"""Measure the bundled model on validation photos and write its card: `python -m training.card --help`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from flairsearch import weights
from flairsearch.model import load_model
from training.data import Annotations, read_photos
from training.evaluate import evaluate, table
from training.release import LOG

_TEXT = """# flair-tiny

The small model that comes with flairsearch, so that it works offline and at once. It is a true FLAIR (global and local
image tokens, text-conditioned attention pool with a zero key, FLAIR's two losses; arXiv 2412.03561), only small:
{parameters:.1f} M parameters, {megabytes:.1f} MB in float16, 224 px, 196 patches. Its image tower is convolutional
(`flairsearch/convtower.py`), which learns far more from few photos than a transformer does; the text tower is a
transformer of {text_layers} x {text_width}, the embedding has {embed_dim} dimensions, the pool {pool_heads} heads.

**What it is for**: trying the tool, tests, and measuring the engine. It knows what its {photos} training photos and
their captions speak of (people, dogs, sports, streets, water, snow). It was trained on {seen} of the 49,408 token ids;
a query with another word says so. For real collections pull a published model:
`flairsearch models pull flair-merged30m`.

**Licence of these weights**: trained on Flickr8k, whose photos are for non-commercial research and education only, and
with the help of MobileNetV2's ImageNet weights (Apache-2.0), which are not contained. Use them for research and
education only. The code is MIT.

## Recipe

From scratch with `training/` of this repository. Data: Flickr8k's {photos} training photos, five captions each, and
MobileNetV2 as a frozen teacher. Half of the steps show mosaics of 2 x 2 or 3 x 3 photos whose captions each speak of
one cell. Losses: the text-conditioned sigmoid loss with B + K - 1 texts an image, the global sigmoid loss with all
texts, and the squared error of the teacher's features. AdamW, float32 weights behind a bfloat16 model, moving average
of the weights. `python -m training.train --help` has the phases and the one command. The last weights were taken; none
were chosen by the figures below.

These weights took some 100 minutes on 2 CPU cores with other work beside. Their first two phases were run by
forerunners of today's code: `blocks` was stopped at step 1,000 of a schedule for 3,000 and had the late blocks learn
too, `distil` at 630 of 700, each on other crops; `joint` was shortened from 3,200 to 2,700 steps at step 1,400. The
command repeats the recipe, not every bit.

Key lines of the log (`training/flair-tiny.log.jsonl`; losses as weighted in `training/student.py`), the last of each
phase:

{log}

## Measured

Text to image on `val.json`, 509 photos, 2,545 captions (chance R@10: 2.0 %), and on mosaics of those photos, every
photo once, seed 0; float32, exhaustive. Full = text-conditioned, global = the class token alone. Chance of the right
cell: 25 % and 11 %. Made by `python -m training.card --photos images.tar --annotations val.json`.

{figures}
"""


def last_lines(log: str) -> str:
    """The last line of each phase, as Markdown."""
    rows = {row["phase"]: row for row in map(json.loads, log.splitlines())}
    return "\n".join(f"* `{json.dumps(row)}`" for row in rows.values())


def main() -> None:
    parser = argparse.ArgumentParser(description="Evaluate the bundled model and write its card.")
    parser.add_argument("--photos", type=Path, required=True, help="folder or tar with the annotated photos")
    parser.add_argument("--annotations", type=Path, required=True, help="Flickr30k-style JSON")
    args = parser.parse_args()
    annotations = Annotations.read(args.annotations)
    model = load_model(weights.BUNDLED)
    figures = evaluate(model, read_photos(args.photos, annotations.names), annotations)
    c = model.config
    text = _TEXT.format(
        parameters=sum(p.numel() for p in model.parameters()) / 1e6,
        megabytes=weights.bundled_file().stat().st_size / 1e6,
        text_layers=c.text_layers,
        text_width=c.text_width,
        embed_dim=c.embed_dim,
        pool_heads=c.pool_heads,
        photos="6,582",
        seen=f"{len(weights.seen_tokens(weights.bundled_file()) or ()):,}",
        log=last_lines(LOG.read_text()),
        figures=table(figures),
    )
    weights.bundled_file().with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
