"""Read nouns, their hypernyms and definitions from WordNet's files, as in Debian's package wordnet-base.

A line of data.noun holds: offset, file number, type, number of words (two hexadecimal digits), each word with a number,
number of pointers, each pointer (kind, offset, type, source and target), and after ` | ` the gloss.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path("/usr/share/wordnet")
PHYSICAL = "00001930"  # The offset of "physical entity".
_HYPERNYM_POINTERS = ("@", "@i")  # These kinds of pointers lead to a hypernym.
_MIN_SENSE_SHARE = 0.2  # A sense is common if it has at least this share of a noun's tagged uses.


@dataclass(frozen=True)
class Noun:
    """A synset: its words, the offsets of its hypernyms, its definition."""

    words: tuple[str, ...]
    hypernyms: tuple[str, ...]
    definition: str


def read_nouns(folder: Path = FOLDER) -> dict[str, Noun]:
    """Return all nouns by their offsets."""
    nouns = {}
    for line in _lines(folder / "data.noun"):
        head, _, gloss = line.partition(" | ")
        fields = head.split(" ")
        count = int(fields[3], 16)
        words = tuple(fields[4 + 2 * i].replace("_", " ") for i in range(count))
        pointers = fields[5 + 2 * count :]
        hypernyms = tuple(pointers[i + 1] for i in range(0, len(pointers) - 3, 4) if pointers[i] in _HYPERNYM_POINTERS)
        nouns[fields[0]] = Noun(words, hypernyms, gloss.split(";")[0].split("(")[0].strip())
    return nouns


def read_words(kind: str, folder: Path = FOLDER) -> list[str]:
    """Return all words of a kind: `adj` or `verb`."""
    return [line.split(" ", 1)[0].replace("_", " ") for line in _lines(folder / f"index.{kind}")]


def read_counts(folder: Path = FOLDER) -> dict[str, int]:
    """Return the number of uses of each noun, in lower case, in WordNet's tagged texts."""
    counts: dict[str, int] = {}
    for line in (folder / "cntlist.rev").read_text(encoding="utf-8").splitlines():
        key, _, count = line.split(" ")
        if (found := re.match(r"(.+)%1:", key)) is not None:
            word = found[1].replace("_", " ")
            counts[word] = counts.get(word, 0) + int(count)
    return counts


def read_senses(folder: Path = FOLDER) -> dict[str, list[str]]:
    """Return the offsets of each noun's common senses in tagged texts, or of its only sense."""
    tagged: dict[str, dict[int, int]] = {}  # Uses by noun and number of the sense, from 1.
    for line in (folder / "cntlist.rev").read_text(encoding="utf-8").splitlines():
        key, sense, count = line.split(" ")
        if (found := re.match(r"(.+)%1:", key)) is not None:
            tagged.setdefault(found[1], {})[int(sense)] = int(count)
    senses = {}
    for line in _lines(folder / "index.noun"):
        word, _, count, *rest = line.split()
        offsets, uses = rest[-int(count) :], tagged.get(word, {})
        common = [n for n in uses if n <= len(offsets) and uses[n] >= _MIN_SENSE_SHARE * sum(uses.values())]
        if common or len(offsets) == 1:
            senses[word.replace("_", " ")] = [offsets[n - 1] for n in sorted(common)] or offsets
    return senses


def ancestors(nouns: Mapping[str, Noun], offset: str) -> list[str]:
    """Return the offsets of all hypernyms, nearest first."""
    found: dict[str, None] = {}
    layer = list(nouns[offset].hypernyms)
    while layer:
        found |= dict.fromkeys(layer)
        layer = [parent for synset in layer for parent in nouns[synset].hypernyms if parent not in found]
    return list(found)


def _lines(file: Path) -> Iterator[str]:
    """Yield the lines of a file without the licence at its start, whose lines begin with a space."""
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith(" "):
            yield line
