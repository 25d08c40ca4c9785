"""Time warm queries on an index by shortlist, and measure how much of the exhaustive top 10 each shortlist contains.

    python -m benchmarks.query INDEX val.json [--count 40]

The queries are the first captions of the photos in the annotation file.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from benchmarks.flickr import Annotations
from flairsearch import Engine

SHORTLIST_SHARES = (0.01, 0.02, 0.05, 0.1, 0.3)


def main() -> None:
    parser = argparse.ArgumentParser(description="Query time and shortlist recall@10.")
    parser.add_argument("index", type=Path)
    parser.add_argument("annotations", type=Path)
    parser.add_argument("--count", type=int, default=40)
    args = parser.parse_args()
    texts = [captions[0] for captions in Annotations.read(args.annotations).captions[: args.count]]
    with Engine.open(args.index, create=False) as engine:
        views = engine.status().views
        engine.search(texts[0])
        print(f"{views} views, {len(texts)} captions\n| shortlist | ms a query, median | recall@10 |\n|---|---|---|")
        exact: list[set[str]] = []
        for shortlist in (views, "auto", *(max(10, round(views * share)) for share in SHORTLIST_SHARES)):
            seconds, found, ranked = [], [], []
            for text in texts:
                began = time.perf_counter()
                hits = engine.search(text, 10, shortlist=shortlist)
                seconds.append(time.perf_counter() - began)
                found.append({hit.path for hit in hits})
                ranked.append(hits.stats.views_ranked)
            exact = exact or found
            recall = statistics.mean(len(a & b) / len(b) for a, b in zip(found, exact, strict=True))
            share = statistics.median(ranked) / views
            print(f"| {shortlist} ({share:.1%}) | {statistics.median(seconds) * 1e3:.0f} | {recall:.3f} |")


if __name__ == "__main__":
    main()
