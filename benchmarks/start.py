"""What one query costs as a whole command, from the shell and back: cold, and through a server of the index.

    python -m benchmarks.start INDEX [--rounds 9]

In turns, so that all see the same machine: `python -c pass`, `flairsearch --help`, the query without a server, the
query with one, its answer as a table and as paths alone, and `python -c "import torch, open_clip"`, which is what a
query would wait for with the model in torch.

    python -m benchmarks.start INDEX --published

also times the text alone, from the first import on, with random weights of the published models' size.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

QUERY = "a white puppy with black ears"
_ENVIRONMENT = {  # Compiled modules are kept, as after an installation.
    name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Whole commands, timed.")
    parser.add_argument("index", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--published", action="store_true")
    args = parser.parse_args()
    if args.published:
        _time_text(args.rounds)
    server = subprocess.Popen(
        [*_flairsearch("serve"), "--index", str(args.index), "--port", "0"], stderr=subprocess.PIPE, text=True
    )
    try:
        ready = server.stderr.readline() if server.stderr else ""
        if not ready.startswith("http"):
            raise SystemExit(f"the server did not start: {ready}")
        _compare(args.index, ready.strip(), args.rounds)
    finally:
        server.terminate()
        server.wait()


def _compare(index: Path, address: str, rounds: int) -> None:
    commands = {
        "python": [sys.executable, "-c", "pass"],
        "flairsearch --help": _flairsearch("--help"),
        "query, cold": [*_flairsearch("query"), QUERY, "--index", str(index)],
        "query, through a server": [*_flairsearch("query"), QUERY, "--server", address],
        "query --paths, through a server": [*_flairsearch("query"), QUERY, "--paths", "--server", address],
        "import torch, open_clip": [sys.executable, "-c", "import torch, open_clip"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds + 1):  # The first round fills caches.
        for name, command in commands.items():
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, env=_ENVIRONMENT)
            seconds[name].append(time.perf_counter() - began)
    print("| command | s, median | least | most |\n|---|---|---|---|")
    for name, taken in seconds.items():
        kept = taken[1:]
        print(f"| {name} | {statistics.median(kept):.2f} | {min(kept):.2f} | {max(kept):.2f} |")


TEXT = """
import sys, time
began = time.perf_counter()
from pathlib import Path
from flairsearch.model.text_encoder import TextEncoder
imported = time.perf_counter()
encoder = TextEncoder(Path(sys.argv[1]))
encoder.encode_texts([sys.argv[2]])
first = time.perf_counter()
encoder.encode_texts(["two dogs run on wet sand"])
print(imported - began, first - imported, time.perf_counter() - first)
"""


def _time_text(rounds: int) -> None:
    from flairsearch.model import checkpoints
    from flairsearch.model.flair import FLAIR, ModelConfig

    with tempfile.TemporaryDirectory() as folder:
        file, config = Path(folder) / "random.safetensors", checkpoints.published_config()
        checkpoints.save(FLAIR(ModelConfig.from_json(config)).flair_state(), config, "random", file)
        command = [sys.executable, "-c", TEXT, str(file), QUERY]
        runs = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(rounds)]
        columns = zip(*([float(part) for part in run.split()] for run in runs), strict=True)
        imports, first, warm = (1000 * statistics.median(column) for column in columns)
        size = file.stat().st_size / 1e6
    print(f"a text with {size:.0f} MB of weights, ms: imports {imports:.0f}, first {first:.0f}, next {warm:.0f}\n")


def _flairsearch(verb: str) -> list[str]:
    return [str(Path(sys.executable).with_name("flairsearch")), verb]


if __name__ == "__main__":
    main()
