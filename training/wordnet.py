"""WordNet's files as Debian's package wordnet-base lays them: nouns, what each is a kind of, and their definitions.

Format of a line of data.noun: offset, file number, type, count of words (two hexadecimal digits), each word with a
number, count of pointers, each pointer (kind, offset, type, source and target); behind ` | ` the gloss.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path("/usr/share/wordnet")
PHYSICAL = "00001930"  # physical entity
_KIND_OF = ("@", "@i")  # pointers to a hypernym
_COMMON_SENSE = 0.2  # share of a noun's tagged uses from which a sense is one that it mostly has


@dataclass(frozen=True)
class Noun:
    """A synset: its words, the offsets of its hypernyms, its definition."""

    words: tuple[str, ...]
    kinds: tuple[str, ...]
    definition: str


def read_nouns(folder: Path = FOLDER) -> dict[str, Noun]:
    """Offset -> noun."""
    nouns = {}
    for line in _lines(folder / "data.noun"):
        head, _, gloss = line.partition(" | ")
        fields = head.split(" ")
        count = int(fields[3], 16)
        words = tuple(fields[4 + 2 * i].replace("_", " ") for i in range(count))
        pointers = fields[5 + 2 * count :]
        kinds = tuple(pointers[i + 1] for i in range(0, len(pointers) - 3, 4) if pointers[i] in _KIND_OF)
        nouns[fields[0]] = Noun(words, kinds, gloss.split(";")[0].split("(")[0].strip())
    return nouns


def read_words(kind: str, folder: Path = FOLDER) -> list[str]:
    """All words of a kind: `adj`, `verb`."""
    return [line.split(" ", 1)[0].replace("_", " ") for line in _lines(folder / f"index.{kind}")]


def read_counts(folder: Path = FOLDER) -> dict[str, int]:
    """How often each noun, in lower case, stands in WordNet's tagged texts."""
    counts: dict[str, int] = {}
    for line in (folder / "cntlist.rev").read_text(encoding="utf-8").splitlines():
        key, _, count = line.split(" ")
        if (found := re.match(r"(.+)%1:", key)) is not None:
            word = found[1].replace("_", " ")
            counts[word] = counts.get(word, 0) + int(count)
    return counts


def read_senses(folder: Path = FOLDER) -> dict[str, list[str]]:
    """Noun -> the offsets of the senses that it mostly has: its only one, or those common in tagged texts."""
    tagged: dict[str, dict[int, int]] = {}  # noun -> number of the sense, from 1 -> uses
    for line in (folder / "cntlist.rev").read_text(encoding="utf-8").splitlines():
        key, sense, count = line.split(" ")
        if (found := re.match(r"(.+)%1:", key)) is not None:
            tagged.setdefault(found[1], {})[int(sense)] = int(count)
    senses = {}
    for line in _lines(folder / "index.noun"):
        word, _, count, *rest = line.split()
        offsets, uses = rest[-int(count) :], tagged.get(word, {})
        common = [n for n in uses if n <= len(offsets) and uses[n] >= _COMMON_SENSE * sum(uses.values())]
        if common or len(offsets) == 1:
            senses[word.replace("_", " ")] = [offsets[n - 1] for n in sorted(common)] or offsets
    return senses


def ancestors(nouns: Mapping[str, Noun], offset: str) -> list[str]:
    """Offsets of all hypernyms, the nearest first."""
    found: dict[str, None] = {}
    layer = list(nouns[offset].kinds)
    while layer:
        found |= dict.fromkeys(layer)
        layer = [kind for one in layer for kind in nouns[one].kinds if kind not in found]
    return list(found)


def _lines(file: Path) -> Iterator[str]:
    """Without the licence in front, whose lines begin with a space."""
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith(" "):
            yield line
