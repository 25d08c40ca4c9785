"""A bank of texts from which the text tower learns MiniLM's space: captions, names, WordNet, and phrases made of them.

Sources, each a list of texts: captions of the photos; names (labels, what they are, synonyms, tags); nouns of WordNet
(those in lower case); definitions of physical things; phrases of names and common nouns in templates; captions in
which a noun is another one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.wordnet import FOLDER, PHYSICAL, ancestors, read_counts, read_nouns, read_words

TEMPLATES = ("{}", "a {}", "the {}", "a photo of a {}", "{} in the background", "a close-up of {}", "many {}", "one {}")
_PAIRS = (
    "{} and {}",
    "{} on a {}",
    "a {} with a {}",
    "{} next to a {}",
    "{} in front of a {}",
    "a {} in a {}",
    "{} {}",
)
_QUALITIES = (
    *("red", "green", "blue", "yellow", "white", "black", "brown", "orange", "pink", "purple", "grey", "golden"),
    *("small", "big", "old", "new", "young", "wooden", "metal", "plastic", "glass", "striped", "spotted", "round"),
    *("wet", "dirty", "clean", "empty", "full", "open", "closed", "shiny", "dark", "bright", "long", "short", "tall"),
    *("sleeping", "running", "sitting", "standing", "flying", "swimming", "eating", "broken", "colorful", "cute"),
)
_LONGEST = 160  # letters of a text
_PHRASES, _CHANGED, _DEFINITIONS = 60_000, 12_000, 30_000  # how many are made


def build_bank(
    captions: Sequence[str], names: Sequence[str], wordnet: Path = FOLDER, seed: int = 0
) -> dict[str, list[str]]:
    """Source -> its texts, each once."""
    rng = np.random.default_rng(seed)
    nouns, counts = read_nouns(wordnet), read_counts(wordnet)
    lower = [
        word for noun in nouns.values() for word in noun.words if word == word.lower() and not re.search(r"\d", word)
    ]
    physical = [offset for offset in nouns if PHYSICAL in ancestors(nouns, offset)]
    common = [word for word in dict.fromkeys(lower) if counts.get(word.replace(" ", "_"), counts.get(word, 0)) >= 2]
    things = [word for offset in physical for word in nouns[offset].words if word in set(common)]
    subjects = [*dict.fromkeys(names), *dict.fromkeys(things)]
    definitions = [nouns[offset].definition for offset in physical]
    rng.shuffle(definitions)
    sources = {
        "captions": list(captions),
        "names": [
            text
            for name in dict.fromkeys(names)
            for text in (name, TEMPLATES[rng.integers(1, len(TEMPLATES))].format(name))
        ],
        "nouns": lower + [word for word in read_words("adj", wordnet) + read_words("verb", wordnet) if " " not in word],
        "definitions": definitions[:_DEFINITIONS],
        "phrases": [_phrase(rng, subjects) for _ in range(_PHRASES)],
        "changed": [_change(rng, caption, subjects) for caption in rng.permutation(list(captions))[:_CHANGED]],
    }
    return {name: [text[:_LONGEST] for text in dict.fromkeys(texts) if text.strip()] for name, texts in sources.items()}


def _phrase(rng: np.random.Generator, subjects: Sequence[str]) -> str:
    """One or two things in a template, often with a quality."""
    parts = []
    for _ in range(2):
        subject = subjects[rng.integers(len(subjects))]
        quality = f"{_QUALITIES[rng.integers(len(_QUALITIES))]} " if rng.random() < 0.4 else ""
        parts.append(quality + subject)
    if rng.random() < 0.4:
        return TEMPLATES[rng.integers(len(TEMPLATES))].format(parts[0])
    return _PAIRS[rng.integers(len(_PAIRS))].format(*parts)


def _change(rng: np.random.Generator, caption: str, subjects: Sequence[str]) -> str:
    """A caption with another thing in the place of the word behind one of its articles."""
    places = [found.span(2) for found in re.finditer(r"\b(a|an|the|A|An|The) (\w+)", caption)]
    if not places:
        return caption
    start, end = places[rng.integers(len(places))]
    return caption[:start] + subjects[rng.integers(len(subjects))] + caption[end:]
