"""Texts to ask of photos that nobody has described."""

from __future__ import annotations

_NOUNS = (
    *(
        "person",
        "man",
        "woman",
        "child",
        "baby",
        "dog",
        "cat",
        "horse",
        "bird",
        "cow",
        "sheep",
        "car",
        "bicycle",
        "bus",
    ),
    *("train", "boat", "plane", "tree", "flower", "mountain", "beach", "river", "lake", "street", "house", "bridge"),
    *("chair", "table", "bed", "window", "door", "book", "bottle", "cup", "plate", "cake", "fruit", "ball", "hat"),
    *("shirt", "dress"),
)
_PHRASES = ("a {}", "a red {}", "a white {}", "two {}s outside", "a small {} in front of a building")


def phrases() -> list[str]:
    """Some two hundred short descriptions of what photos show."""
    return [phrase.format(noun) for noun in _NOUNS for phrase in _PHRASES]
