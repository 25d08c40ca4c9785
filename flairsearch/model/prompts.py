"""Generate the prompt bank: reference texts that are scored against every photo to fit the score predictor."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

BANK_SIZE = 2400  # shortlist/score_predictor.py fits to a bank of this many texts.
# ruff: noqa: SIM905 - Lists of words are written as one string.

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
    """Return about two hundred short phrases that describe photos."""
    return [phrase.format(noun) for noun in _NOUNS for phrase in _PHRASES]


_PEOPLE = (
    "man woman boy girl child baby person player skier surfer climber cyclist rider dancer worker skateboarder "
    "snowboarder hiker couple family crowd toddler teenager runner swimmer guy lady kid soldier chef musician "
    "clown bride"
).split()
_ANIMALS = (
    "dog cat horse bird cow sheep puppy elephant duck fish goat lion bear zebra rabbit monkey kitten squirrel "
    "butterfly seagull greyhound poodle"
).split()
_THINGS = (
    "ball bicycle car truck bus train boat kayak airplane motorcycle skateboard surfboard snowboard frisbee stick "
    "toy rope umbrella bag book bottle cup plate cake pizza apple banana flower guitar drum camera phone laptop "
    "chair table bed sofa lamp clock window door sign flag balloon kite bench fence ladder tent helmet hat tree "
    "rock statue hammock swing slide trampoline sled fire bubble"
).split()
_CLOTHES = ("shirt jacket hat dress coat shorts uniform swimsuit vest sweater scarf jersey suit costume helmet").split()
_COLORS = "red blue green yellow white black brown orange pink purple gray tan".split()
_QUALITIES = (
    "small large big young old wet muddy fluffy spotted striped wooden metal empty tall little furry shiny "
    "colorful dark bright"
).split()
_SCENES = (
    "snow sand grass water sky mountains ocean beach forest city street night sunset crowd rain fog clouds waves "
    "desert lake river waterfall field rocks trees flowers ice kitchen bedroom office market stadium playground "
    "party wedding parade concert race game picnic traffic"
).split()
_PLACES = (
    "on the beach|in the snow|in the water|on the grass|in a field|on the street|in a park|in a pool|"
    "on a mountain|in the forest|on a road|at a table|in a kitchen|in a room|by a lake|in a river|on a rock|"
    "in front of a building|in the city|on a track|in a stadium|on a bench|near a fence|in the air|"
    "on the sidewalk|on a dirt path|under a tree|at night|at sunset|in the desert|on a boat|in a crowd|"
    "in the rain|on a bridge|on a playground|in a garden|in a shop|on a couch|in the ocean|on a hill|indoors|"
    "outdoors|on the sand|next to a wall|in a restaurant|on stage|in the mud|in a yard|along the shore|"
    "through the woods"
).split("|")
_ACTIONS = (
    "running|jumping|walking|sitting|standing|sleeping|swimming|playing|eating|drinking|climbing|"
    "riding a bicycle|riding a horse|surfing a wave|skiing|snowboarding|skateboarding|throwing a ball|"
    "catching a frisbee|kicking a ball|holding a stick|looking at the camera|smiling|laughing|reading a book|"
    "playing the guitar|dancing|fishing|taking a picture|pushing a cart|pulling a rope|digging|barking|"
    "shaking off water|carrying a bag|talking|waving|lying down|chasing a ball|hugging|singing|sliding|swinging|"
    "falling|diving|flying|crossing the street|playing soccer|playing tennis|playing basketball|playing football|"
    "leaping over a fence|rock climbing|paddling|cooking|painting|working|waiting|crawling|blowing bubbles"
).split("|")
_WATCHING_VERBS = ("watches", "stands behind", "is nearby", "looks on")
_SINGLE_WORDS = [
    *_PEOPLE,
    *_ANIMALS,
    *_THINGS,
    *_SCENES,
    *_CLOTHES,
    *(action for action in _ACTIONS if " " not in action),
]


def texts(count: int = BANK_SIZE) -> list[str]:
    """Return distinct texts, from single words to sentences of two clauses; every call returns the same texts."""
    generator = _TextGenerator()
    found: dict[str, None] = {}
    while len(found) < count:
        found[generator.text()] = None
    return list(found)


class _TextGenerator:
    """Draws random texts; they need not make sense, but must be as varied as people's queries."""

    def __init__(self) -> None:
        self._random = Random(0)

    def text(self) -> str:
        """Draw one text."""
        draw = self._random.random()
        if draw < 0.08:
            return self._choose(_SINGLE_WORDS)
        if draw < 0.16:
            return self._object()
        if draw < 0.22:
            return self._subject()
        if draw < 0.24:
            return f"{self._choose(_SCENES)} and {self._choose(_SCENES)}"
        if draw < 0.26:
            return f"{self._object()} {self._choose(_PLACES)}"
        sentence = self._sentence()
        return f"{sentence} ." if self._random.random() < 0.5 else sentence

    def _sentence(self) -> str:
        draw, subject = self._random.random(), self._subject()
        if draw < 0.14:
            return f"{subject} {self._choose(_ACTIONS)}"
        if draw < 0.24:
            return f"{subject} {self._choose(_PLACES)}"
        if draw < 0.32:
            return f"{subject} with {self._object()}"
        acting = f"{self._choose(_ACTIONS)} {self._choose(_PLACES)}"
        if draw < 0.65:
            return f"{subject} {acting}"
        if draw < 0.76:
            return f"{subject} and {self._subject()} {acting}"
        if draw < 0.88:
            return f"{subject} with {self._object()} {acting}"
        return f"{subject} {acting} while {self._subject()} {self._choose(_WATCHING_VERBS)}"

    def _subject(self) -> str:
        draw = self._random.random()
        if draw < 0.33:
            return self._with_article(self._describe(_ANIMALS))
        if draw < 0.40:
            return f"{self._choose(('two', 'three', 'several', 'many'))} {self._describe(_ANIMALS)}s"
        if draw < 0.46:
            plurals = ("people", "children", "men", "women", "boys", "girls", "friends")
            return f"{self._choose(('two', 'three', 'several', 'a group of'))} {self._choose(plurals)}"
        subject = self._with_article(self._choose(_PEOPLE) if self._random.random() < 0.7 else self._describe(_PEOPLE))
        return (
            f"{subject} in {self._with_article(self._describe(_CLOTHES))}" if self._random.random() < 0.35 else subject
        )

    def _object(self) -> str:
        return self._with_article(self._describe(_THINGS))

    def _describe(self, nouns: Sequence[str]) -> str:
        draw, noun = self._random.random(), self._choose(nouns)
        if draw < 0.3:
            return f"{self._choose(_COLORS)} {noun}"
        if draw < 0.5:
            return f"{self._choose(_QUALITIES)} {noun}"
        if draw < 0.6:
            return f"{self._choose(_COLORS)} and {self._choose(_COLORS)} {noun}"
        return noun

    def _with_article(self, phrase: str) -> str:
        return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"

    def _choose(self, words: Sequence[str]) -> str:
        return words[int(self._random.random() * len(words))]  # Random.choice differs between versions of Python.
