"""Photos and what is known of each: captions, names, boxes; and a table of which name is true of which photo.

Sources: Flickr-style annotations (five captions a photo) and labelled photos, one JSON object a line (label or labels,
synonyms, is_a, coarse, tags, captions, boxes).
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

FALSE, UNKNOWN, TRUE = 0, 1, 2  # of a name and a photo
CLASSES = 1000
# Three of ImageNet's classes have no photo in the data: tusker, crane (the bird), maillot (the tank suit).
_WITHOUT_PHOTO = ("01871265", "02012849", "03710721")
_SURE, _UNSURE = 0.4, 0.04  # probability by the classifier from which a name is true, and is no longer false
_ALIKE = 0.75  # cosine of two names from which one may be true of a photo of the other
_CAPTIONS = 2  # captions that must speak of a name for it to be true; one alone leaves it unknown
_SPOKEN_OFTEN = 20  # captions that speak of a physical thing from which its noun is a name
_TOO_WIDE = frozenset(("00001740", "00001930", "00002684", "00003553", "00004258", "00021939"))  # entity ... artifact


@dataclass(frozen=True)
class Photo:
    image: str
    captions: tuple[str, ...]
    names: tuple[str, ...]  # lower case, the label first
    boxes: tuple[tuple[str, tuple[float, ...]], ...] = ()  # name; left, top, right, bottom as shares of the photo
    labels: int = 1  # how many of `names` are labels; the others are synonyms, kinds and tags


def read_flickr(file: Path) -> list[Photo]:
    rows = json.loads(file.read_text(encoding="utf-8"))
    return [Photo(row["image"], tuple(row["caption"]), ()) for row in rows]


def read_broad(file: Path) -> list[Photo]:
    return [_broad(json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


def _broad(row: Mapping[str, object]) -> Photo:
    labels = [_clean(text) for text in _texts(row, "label") + _texts(row, "labels")]
    others = [_clean(text) for key in ("synonyms", "is_a", "coarse", "tags") for text in _texts(row, key)]
    captions = _texts(row, "caption") + _texts(row, "captions")
    boxes, size = [] if "mask" in row else row.get("boxes", []), row["size"]  # a mask's boxes are extents of a class
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


def image_net(file: Path) -> list[str]:
    """The WordNet offsets of the classifier's classes, in its order: that of the offsets."""
    found = set(re.findall(r'"orig": "n(\d{8})_[^"]*", "size": [^}]*"source": "imagenet_samples"', file.read_text()))
    offsets = sorted(found | set(_WITHOUT_PHOTO))
    if len(offsets) != CLASSES:
        raise SystemExit(f"{file} names {len(offsets)} of ImageNet's {CLASSES} classes - is it the right file?")
    return offsets


def class_names(offsets: Sequence[str], nouns: Mapping[str, Noun]) -> list[list[str]]:
    """Of each class its words and those of its hypernyms, lower case, the nearest first; the widest are left out."""
    result = []
    for offset in offsets:
        kinds = [kind for kind in ancestors(nouns, offset) if kind not in _TOO_WIDE]
        words = [word.lower() for one in (offset, *kinds) for word in nouns[one].words]
        result.append(list(dict.fromkeys(words)))
    return result


def spoken_names(captions: Sequence[str], nouns: Mapping[str, Noun], senses: Mapping[str, Sequence[str]]) -> list[str]:
    """Nouns of physical things that captions often speak of."""
    things = [word for word, found in senses.items() if PHYSICAL in ancestors(nouns, found[0])]
    counts = _Speaker(things).count_each(captions)
    return [thing for thing, count in zip(things, counts, strict=True) if count >= _SPOKEN_OFTEN]


def implied_names(
    names: Sequence[str], nouns: Mapping[str, Noun], senses: Mapping[str, Sequence[str]]
) -> list[list[int]]:
    """Of each name the numbers of those that are true with it in all its senses: synonyms, and what it is a kind of."""
    number = {name: i for i, name in enumerate(names)}
    result = []
    for name in names:
        words = [_words_above(nouns, offset) for offset in senses.get(name, ())]
        shared = set.intersection(*words) if words else set()
        result.append(sorted(number[word] for word in shared if word in number))
    return result


def _words_above(nouns: Mapping[str, Noun], offset: str) -> set[str]:
    kinds = [kind for kind in (offset, *ancestors(nouns, offset)) if kind not in _TOO_WIDE]
    return {word.lower() for kind in kinds for word in nouns[kind].words}


def truth_table(
    photos: Sequence[Photo],
    names: Sequence[str],
    vectors: NDArray[np.float32],
    classes: Sequence[Sequence[str]],
    chances: NDArray[np.float32],
    implied: Sequence[Sequence[int]],
) -> NDArray[np.uint8]:
    """u8[N, names]: FALSE, UNKNOWN or TRUE.

    vectors f32[names, 384] of unit length; chances f32[N, 1000] of the photos' classes; implied: of each name those
    that are true with it. What a label of the data implies stays unknown: its first sense may be another one.
    """
    number = {name: i for i, name in enumerate(names)}
    of_class = np.zeros((len(classes), len(names)), np.float32)
    for i, words in enumerate(classes):
        of_class[i, [number[word] for word in words if word in number]] = 1
    table = np.zeros((len(photos), len(names)), np.uint8)
    alike = [np.flatnonzero(row > _ALIKE) for row in vectors @ vectors.T]
    spoken = _Speaker(names)
    for start in range(0, len(photos), 1024):
        found = chances[start : start + 1024] @ of_class
        table[start : start + 1024] = np.where(found > _SURE, TRUE, np.where(found > _UNSURE, UNKNOWN, FALSE))
    for row, photo in zip(table, photos, strict=True):
        own = [number[name] for name in photo.names]
        counts = spoken.count(photo.captions)
        needed = min(_CAPTIONS, len(photo.captions))
        for near in (n for i in own for n in (*alike[i], *implied[i])):
            row[near] = max(row[near], UNKNOWN)
        for name, count in counts.items():
            for one in (name, *implied[name]):
                row[one] = max(row[one], TRUE if count >= needed else UNKNOWN)
        row[own] = TRUE
    return table


class _Speaker:
    """Which names, of up to three words, captions speak of."""

    def __init__(self, names: Iterable[str]) -> None:
        self._number = {name: i for i, name in enumerate(names)}

    def count(self, captions: Sequence[str]) -> dict[int, int]:
        """Number of a name -> how many of the captions hold it, in the singular or with an s."""
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
        """How many of the captions speak of each name."""
        counts = [0] * len(self._number)
        for caption in captions:
            for number in self.count([caption]):
                counts[number] += 1
        return counts
