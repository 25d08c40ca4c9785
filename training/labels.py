"""Read the captions, names and boxes of photos, and make a table of which name is true of which photo.

Sources: Flickr-style annotations (five captions a photo), and labelled photos as JSON lines (label or labels, synonyms,
is_a, coarse, tags, captions, boxes).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.wordnet import PHYSICAL, Noun, ancestors

FALSE, UNKNOWN, TRUE = 0, 1, 2  # Whether a name is true of a photo.
CLASSES = 1000  # The classifier has ImageNet's classes.
# Three of ImageNet's classes have no photo in the data: tusker, crane (the bird), maillot (the tank suit).
_WITHOUT_PHOTO = ("01871265", "02012849", "03710721")
_TRUE_PROBABILITY = 0.4  # Above this probability of the classifier a name is true.
_UNKNOWN_PROBABILITY = 0.04  # Above this probability of the classifier a name is unknown.
_SIMILAR_COSINE = 0.75  # Names with a larger cosine may be true of each other's photos.
_MIN_CAPTIONS = 2  # A name in this many captions of a photo is true; in a single one it is unknown.
_MIN_MENTIONS = 20  # A noun of a physical thing in this many captions becomes a name.
# Offsets of the most general nouns, from entity to artifact.
_TOO_GENERAL = frozenset(("00001740", "00001930", "00002684", "00003553", "00004258", "00021939"))


@dataclass(frozen=True)
class Photo:
    """A photo with its annotations."""

    image: str  # Path of the photo within the data.
    captions: tuple[str, ...]
    names: tuple[str, ...]  # Names in lower case, labels first.
    boxes: tuple[tuple[str, tuple[float, ...]], ...] = ()  # Name, and (left, top, right, bottom) in [0, 1].
    labels: int = 1  # Number of labels in `names`; the others are synonyms, hypernyms and tags.


def read_flickr(file: Path) -> list[Photo]:
    """Read Flickr-style annotations."""
    rows = json.loads(file.read_text(encoding="utf-8"))
    return [Photo(row["image"], tuple(row["caption"]), ()) for row in rows]


def read_broad(file: Path) -> list[Photo]:
    """Read labelled photos."""
    return [_parse_photo(json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


def _parse_photo(row: Mapping[str, object]) -> Photo:
    labels = [_clean(text) for text in _texts(row, "label") + _texts(row, "labels")]
    others = [_clean(text) for key in ("synonyms", "is_a", "coarse", "tags") for text in _texts(row, key)]
    captions = _texts(row, "caption") + _texts(row, "captions")
    # Boxes beside a mask enclose all pixels of a class, not one object, so they are dropped.
    boxes, size = [] if "mask" in row else row.get("boxes", []), row["size"]
    assert isinstance(boxes, list)
    assert isinstance(size, list)
    width, height = size
    placed = [
        (_clean(box["label"]), tuple(float(v) / (width, height)[i % 2] for i, v in enumerate(box["box"])))
        for box in boxes
    ]
    names = [name for name in dict.fromkeys(labels + others) if name]
    return Photo(str(row["image"]), tuple(captions), tuple(names), tuple(placed), len(dict.fromkeys(labels)))


def _texts(row: Mapping[str, object], key: str) -> list[str]:
    value = row.get(key, [])
    return [value] if isinstance(value, str) else [str(text) for text in value] if isinstance(value, list) else []


def _clean(text: str) -> str:
    return " ".join(text.replace("_", " ").lower().split())


def imagenet_offsets(file: Path) -> list[str]:
    """Return the WordNet offsets of the classifier's classes, in ascending order as in the classifier."""
    found = set(re.findall(r'"orig": "n(\d{8})_[^"]*", "size": [^}]*"source": "imagenet_samples"', file.read_text()))
    offsets = sorted(found | set(_WITHOUT_PHOTO))
    if len(offsets) != CLASSES:
        raise SystemExit(f"{file} names {len(offsets)} of ImageNet's {CLASSES} classes - is it the right file?")
    return offsets


def class_names(offsets: Sequence[str], nouns: Mapping[str, Noun]) -> list[list[str]]:
    """Return the words of each class and of its hypernyms, in lower case, nearest first, without the most general."""
    result = []
    for offset in offsets:
        hypernyms = [parent for parent in ancestors(nouns, offset) if parent not in _TOO_GENERAL]
        words = [word.lower() for synset in (offset, *hypernyms) for word in nouns[synset].words]
        result.append(list(dict.fromkeys(words)))
    return result


def mentioned_names(
    captions: Sequence[str], nouns: Mapping[str, Noun], senses: Mapping[str, Sequence[str]]
) -> list[str]:
    """Return the nouns of physical things that captions mention often."""
    things = [word for word, found in senses.items() if PHYSICAL in ancestors(nouns, found[0])]
    counts = _MentionCounter(things).count_each(captions)
    return [thing for thing, count in zip(things, counts, strict=True) if count >= _MIN_MENTIONS]


def implied_names(
    names: Sequence[str], nouns: Mapping[str, Noun], senses: Mapping[str, Sequence[str]]
) -> list[list[int]]:
    """Return, for each name, the numbers of names implied in all its senses: synonyms and hypernyms."""
    number = {name: i for i, name in enumerate(names)}
    result = []
    for name in names:
        words = [_implied_words(nouns, offset) for offset in senses.get(name, ())]
        shared = set.intersection(*words) if words else set()
        result.append(sorted(number[word] for word in shared if word in number))
    return result


def _implied_words(nouns: Mapping[str, Noun], offset: str) -> set[str]:
    """Return the words of a synset and of its hypernyms, without the most general."""
    synsets = [synset for synset in (offset, *ancestors(nouns, offset)) if synset not in _TOO_GENERAL]
    return {word.lower() for synset in synsets for word in nouns[synset].words}


def truth_table(
    photos: Sequence[Photo],
    names: Sequence[str],
    vectors: NDArray[np.float32],
    classes: Sequence[Sequence[str]],
    probabilities: NDArray[np.float32],
    implied: Sequence[Sequence[int]],
) -> NDArray[np.uint8]:
    """Return whether each name is FALSE, UNKNOWN or TRUE of each photo, u8[N, names].

    vectors: vectors of the names, of unit length, f32[names, 384].
    classes: the names of each class of the classifier.
    probabilities: the classifier's probabilities, f32[N, 1000].
    implied: for each name, the numbers of the names it implies. What a label of the data implies stays UNKNOWN, since
        the label may have another sense.
    """
    number = {name: i for i, name in enumerate(names)}
    of_class = np.zeros((len(classes), len(names)), np.float32)
    for i, words in enumerate(classes):
        of_class[i, [number[word] for word in words if word in number]] = 1
    table = np.zeros((len(photos), len(names)), np.uint8)
    similar = [np.flatnonzero(row > _SIMILAR_COSINE) for row in vectors @ vectors.T]
    mentions = _MentionCounter(names)
    for start in range(0, len(photos), 1024):
        found = probabilities[start : start + 1024] @ of_class
        table[start : start + 1024] = np.where(
            found > _TRUE_PROBABILITY, TRUE, np.where(found > _UNKNOWN_PROBABILITY, UNKNOWN, FALSE)
        )
    for row, photo in zip(table, photos, strict=True):
        own = [number[name] for name in photo.names]
        counts = mentions.count(photo.captions)
        needed = min(_MIN_CAPTIONS, len(photo.captions))
        for other in (n for i in own for n in (*similar[i], *implied[i])):
            row[other] = max(row[other], UNKNOWN)
        for name, count in counts.items():
            for mentioned in (name, *implied[name]):
                row[mentioned] = max(row[mentioned], TRUE if count >= needed else UNKNOWN)
        row[own] = TRUE
    return table


class _MentionCounter:
    """Counts the captions that mention each name of up to three words."""

    def __init__(self, names: Iterable[str]) -> None:
        self._number = {name: i for i, name in enumerate(names)}

    def count(self, captions: Sequence[str]) -> dict[int, int]:
        """Return the number of captions that mention each name, in the singular or plural, by the name's number."""
        counts: dict[int, int] = {}
        for caption in captions:
            words = re.findall(r"[a-z'-]+", caption.lower())
            parts = {" ".join(words[i : i + n]) for n in (1, 2, 3) for i in range(len(words) - n + 1)}
            parts |= {part[:-1] for part in parts if part.endswith("s")} | {
                part[:-2] for part in parts if part.endswith("es")
            }
            for number in {self._number[part] for part in parts if part in self._number}:
                counts[number] = counts.get(number, 0) + 1
        return counts

    def count_each(self, captions: Sequence[str]) -> list[int]:
        """Return the number of captions that mention each name, in the order of the names."""
        counts = [0] * len(self._number)
        for caption in captions:
            for number in self.count([caption]):
                counts[number] += 1
        return counts
