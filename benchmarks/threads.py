"""Threads that share one Engine while another process writes the index: is every answer right?

    python -m benchmarks.threads PHOTOS val.json [--photos 400] [--threads 4] [--searches 2000]

PHOTOS is a folder, val.json has captions of photos (Flickr30k's annotation format). The index holds few enough views
to rank all of them, so that an answer is exact. The writer adds photos of a second folder in steps, with pauses of
two seconds, and forgets them again. An answer is right when it is sorted, when every photo has the score that it has in
any answer to the same query, and when its photos of the first folder are the best of that folder in their order.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from flairsearch import Engine, Query

K = 5  # Each search asks for this number of hits.
TEXTS = 12  # This many different texts are asked; what is right for each takes a look at every photo.
WRITER = """
import sys, time
from pathlib import Path
from flairsearch import Engine
index, more, photos = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
more.mkdir()
turns = 0
while not Path(index, "stop").exists():
    for start in range(0, len(photos), 20):
        for photo in photos[start : start + 20]:
            (more / Path(photo).name).symlink_to(photo)
        with Engine.open(index, device="cpu", create=False) as engine:
            engine.add(more)
        time.sleep(2)
    with Engine.open(index, device="cpu", create=False) as engine:
        engine.forget(more)
    for link in more.iterdir():
        link.unlink()
    turns += 1
print(turns)
"""


def check(found: list[tuple[str, float]], base: dict[str, float], order: list[str], first: str) -> str | None:
    """What is wrong with an answer, or None. base: photo of the first folder -> score; order: best first."""
    if [score for _, score in found] != sorted((score for _, score in found), reverse=True):
        return "not sorted"
    known = [path for path, _ in found if path.startswith(first)]
    if known != order[: len(known)]:
        return "photos of the first folder are missing or out of order"
    if any(abs(score - base[path]) > 1e-5 for path, score in found if path in base):
        return "a photo has another score"
    return None if len(found) == K else f"{len(found)} hits"


def main() -> None:
    parser = argparse.ArgumentParser(description="Threads that share one Engine beside a writer.")
    parser.add_argument("folder", type=Path, metavar="PHOTOS")
    parser.add_argument("captions", type=Path)
    parser.add_argument("--photos", type=int, default=400, help="Photos of the first folder.")
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--searches", type=int, default=2000, help="Searches of all threads together.")
    args = parser.parse_args()
    files = sorted(path for path in args.folder.iterdir() if path.suffix == ".jpg")
    texts = [one["caption"][0] for one in json.loads(args.captions.read_bytes())][:TEXTS]
    with tempfile.TemporaryDirectory() as scratch:
        root, index = Path(scratch), Path(scratch, "index")
        (root / "first").mkdir()
        for file in files[: args.photos]:
            (root / "first" / file.name).symlink_to(file.resolve())
        with Engine.open(index, device="cpu") as engine:
            engine.add(root / "first")
            whole = {text: list(engine.search(text, args.photos)) for text in texts}
            more = [str(file.resolve()) for file in files[args.photos : args.photos + 100]]
            command = [sys.executable, "-c", WRITER, str(index), str(root / "more"), *more]
            writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ})
            wrong: list[str] = []
            states: set[int] = set()

            def search(thread: int) -> None:
                for turn in range(args.searches // args.threads):
                    text = texts[(thread + turn) % len(texts)]
                    query = Query(text, position="center") if turn % 100 == 99 else Query(text)
                    try:
                        result = engine.search(query, K)
                    except Exception as error:
                        wrong.append(f"{text}: {type(error).__name__}: {error}")
                        continue
                    states.add(result.stats.views_in_filter)
                    if turn % 100 == 99:
                        continue
                    base = {hit.path: hit.score for hit in whole[text]}
                    found = [(hit.path, hit.score) for hit in result]
                    if reason := check(found, base, [hit.path for hit in whole[text]], f"{root}/first/"):
                        wrong.append(f"{text}: {reason}")

            begun = time.perf_counter()
            threads = [threading.Thread(target=search, args=(number,)) for number in range(args.threads)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            seconds = time.perf_counter() - begun
            (index / "stop").touch()
            turns, _ = writer.communicate()
    print(
        f"{args.searches:,} searches of {args.threads} threads in {seconds:.0f} s beside a writer ({turns.strip()} "
        f"rounds of adding 100 photos and forgetting them, {len(states)} sizes of the index seen): {len(wrong)} wrong"
    )
    for line in wrong[:10]:
        print(line)
    if wrong or writer.returncode:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
