"""Make the bank of texts with which the text tower is distilled from MiniLM.

Its sources: captions of the photos; names (labels, hypernyms, synonyms and tags); lower-case nouns of WordNet;
definitions of physical things; phrases of names and common nouns in templates; captions with a noun replaced.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.wordnet import FOLDER, PHYSICAL, ancestors, read_counts, read_nouns, read_words

TEMPLATES = ("{}", "a {}", "the {}", "a photo of a {}", "{} in the background", "a close-up of {}", "many {}", "one {}")
_PAIR_TEMPLATES = (
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
_MAX_LETTERS = 160  # Longer texts are cut.
_PHRASE_COUNT = 60_000  # Number of phrases.
_CHANGED_COUNT = 12_000  # Number of captions with a noun replaced.
_DEFINITION_COUNT = 30_000  # Number of definitions.


def build_bank(
    captions: Sequence[str], names: Sequence[str], wordnet: Path = FOLDER, seed: int = 0
) -> dict[str, list[str]]:
    """Return the distinct texts of each source, by the name of the source."""
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
        "definitions": definitions[:_DEFINITION_COUNT],
        "phrases": [_make_phrase(rng, subjects) for _ in range(_PHRASE_COUNT)],
        "changed": [
            _replace_noun(rng, caption, subjects) for caption in rng.permutation(list(captions))[:_CHANGED_COUNT]
        ],
    }
    return {
        name: [text[:_MAX_LETTERS] for text in dict.fromkeys(texts) if text.strip()] for name, texts in sources.items()
    }


def _make_phrase(rng: np.random.Generator, subjects: Sequence[str]) -> str:
    """Make a phrase of one or two subjects in a template, often with adjectives."""
    parts = []
    for _ in range(2):
        subject = subjects[rng.integers(len(subjects))]
        quality = f"{_QUALITIES[rng.integers(len(_QUALITIES))]} " if rng.random() < 0.4 else ""
        parts.append(quality + subject)
    if rng.random() < 0.4:
        return TEMPLATES[rng.integers(len(TEMPLATES))].format(parts[0])
    return _PAIR_TEMPLATES[rng.integers(len(_PAIR_TEMPLATES))].format(*parts)


def _replace_noun(rng: np.random.Generator, caption: str, subjects: Sequence[str]) -> str:
    """Replace the word after a random article of a caption by another subject."""
    spans = [found.span(2) for found in re.finditer(r"\b(a|an|the|A|An|The) (\w+)", caption)]
    if not spans:
        return caption
    start, end = spans[rng.integers(len(spans))]
    return caption[:start] + subjects[rng.integers(len(subjects))] + caption[end:]
