"""Compare the answers of two states of the code to sixty queries of every kind.

    python -m benchmarks.answers keep INDEX val.json PHOTOS --out before.json
    python -m benchmarks.answers compare before.json after.json

The queries are made of captions (Flickr30k's annotation format) and of photos of the folder: single texts, phrases,
exclusions, positions, minimum areas, filters, pictures, parts of pictures, further pages, and whole shortlists.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flairsearch import Engine, Filter, ImageExample, Query

TOLERANCE = 1e-6  # Scores that differ by more count as changed.


def queries(captions: list[str], photos: list[Path]) -> Iterator[tuple[str, Query, dict[str, Any]]]:
    """Yield the name of each query, the query, and the other arguments of the search."""
    text, photo = iter(captions), iter(photos)
    for number in range(12):
        yield f"text {number}", Query(next(text)), {}
    for word in ("dog", "red shirt", "water", "a child on a swing"):
        yield f"word {word}", Query(word), {"shortlist": "all" if word == "dog" else "auto"}
    for number in range(4):
        yield f"two phrases {number}", Query([next(text), "a dog"]), {}
        yield f"three phrases {number}", Query([next(text), "grass", "a dog"]), {}
    for number, without in enumerate(("ball", "snow", "person", "collar", "water", "tree")):
        yield f"exclusion {number}", Query("a dog runs", exclude=without), {"k": 5 + number}
    for at in ("left", "right", "top", "bottom", "center"):
        yield f"position {at}", Query("a boy", position=at), {}
    for area in ("2%", "10%", "30%"):
        yield f"area {area}", Query("a face", min_area=area), {}
    folder = str(photos[0].resolve().parent)
    one = [{"extension": "jpg"}, {"larger_than": "15kB"}, {"larger_than": "224x224"}, {"folder": folder}]
    for number, limits in enumerate(
        (*one, {"since": "1960"}, {"until": "2020"}, {"folder": folder, "extension": "png"})
    ):
        yield f"filter {number}", Query(next(text)), {"filter": Filter(**limits)}
    for number in range(5):
        yield f"picture {number}", Query(image=str(next(photo))), {}
    for weight in (0.5, 2.0):
        yield (
            f"picture and text {weight}",
            Query("in the snow", image=ImageExample(next(photo), weight=weight)),
            {},
        )
    yield "part of a picture", Query(image=ImageExample(next(photo), (20, 20, 150, 180))), {}
    for offset in (10, 30, 200):
        yield f"page at {offset}", Query("two people"), {"offset": offset}
    yield "page of phrases", Query(["a man", "a bicycle"], exclude="helmet"), {"offset": 10}
    yield "page of 100", Query("a crowd"), {"k": 100}
    yield "shortlist 50", Query(next(text)), {"shortlist": "50"}
    yield "min_score", Query(next(text)), {"min_score": 0.2}


def keep(args: argparse.Namespace) -> None:
    """Run the queries and write their answers to a file."""
    annotations = json.loads(args.annotations.read_bytes())
    captions = [row["caption"][0] for row in annotations[:: max(1, len(annotations) // 40)]]
    photos = [args.photos / row["image"] for row in annotations[3 :: max(1, len(annotations) // 12)]]
    answers = {}
    with Engine.open(args.index, device="cpu", create=False) as engine:
        for name, terms, rest in queries(captions, photos):
            (hits,) = engine.search_many([terms], **{"k": 10} | rest)
            answers[name] = [
                {
                    "path": hit.path,
                    "score": hit.score,
                    "score_global": hit.score_global,
                    "regions": [[*region.box, region.score] for region in hit.regions],
                    "phrases": [[phrase.text, phrase.score] for phrase in hit.phrases],
                }
                for hit in hits
            ]
    args.out.write_text(json.dumps(answers, indent=1) + "\n", encoding="utf-8")
    empty = sum(not hits for hits in answers.values())
    print(f"{len(answers)} queries, {sum(map(len, answers.values()))} hits, {empty} without any")


def scores_of(hit: dict[str, Any]) -> list[float]:
    """Return all scores of a hit."""
    scores = [score for _, score in hit["phrases"]] + [region[4] for region in hit["regions"]]
    return [hit["score"], hit["score_global"], *scores]


def exact_parts(hit: dict[str, Any]) -> list[Any]:
    """Return the parts of a hit that must be exactly equal: its path, phrases and boxes."""
    return [hit["path"], [text for text, _ in hit["phrases"]], [region[:4] for region in hit["regions"]]]


def compare(args: argparse.Namespace) -> None:
    """Print the differences between two files of answers. Exits with 1 when there are any."""
    before, after = (json.loads(file.read_bytes()) for file in (args.before, args.after))
    differ, largest = [], 0.0
    for name in before.keys() | after.keys():
        old_hits, new_hits = before.get(name, []), after.get(name, [])
        if [*map(exact_parts, old_hits)] != [*map(exact_parts, new_hits)] or (name in before) != (name in after):
            differ.append(name)
        for old, new in zip(old_hits, new_hits, strict=False):
            differences = (abs(x - y) for x, y in zip(scores_of(old), scores_of(new), strict=False))
            largest = max([largest, *differences])
    hits = sum(map(len, before.values()))
    print(f"{len(before)} queries, {hits} hits: paths, phrases and boxes differ in {len(differ)} {differ or ''}")
    print(f"scores differ by {largest:.2g} at most")
    if differ or largest > TOLERANCE:
        raise SystemExit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the answers of two states of the code.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("keep", help="Run the queries and write the answers to a file.")
    verb.add_argument("index")
    verb.add_argument("annotations", type=Path)
    verb.add_argument("photos", type=Path)
    verb.add_argument("--out", type=Path, required=True)
    verb = verbs.add_parser("compare", help="Compare two files of answers.")
    verb.add_argument("before", type=Path)
    verb.add_argument("after", type=Path)
    args = parser.parse_args()
    {"keep": keep, "compare": compare}[args.verb](args)


if __name__ == "__main__":
    main()
