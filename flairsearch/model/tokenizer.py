"""Texts -> token ids, as OpenCLIP's tokenizer gives them: byte pairs over CLIP's vocabulary; no torch.

The vocabulary is the file that comes with open_clip; reading it imports nothing of that package.
Byte pairs: Sennrich and others, arXiv 1508.07909; over bytes: GPT-2, Radford and others, 2019.
"""

from __future__ import annotations

import html
import zlib
from collections.abc import Set
from functools import cached_property
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import regex

from flairsearch.core.errors import WeightsError

START, END = "<start_of_text>", "<end_of_text>"
_FILE = "bpe_simple_vocab_16e6.txt.gz"
_MERGES = 49152 - 256 - 2  # so many of the file's lines, after its first, are CLIP's
_WORDS = regex.compile(
    rf"{START}|{END}|'s|'t|'re|'ve|'m|'ll|'d|\p{{L}}+|\p{{N}}|[^\s\p{{L}}\p{{N}}]+", regex.IGNORECASE
)
_READ = 1 << 20  # bytes of the file, more than these lines have; it has five times as many
_GZIP = 31  # zlib reads a gzip file when it is given this number for the window.
_END_OF_WORD = "</w>"
_PLAIN = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]  # bytes that the vocabulary writes as Latin-1;
_ORDER = [*_PLAIN, *(byte for byte in range(256) if byte not in _PLAIN)]  # the others come last, from letter 256 on
_NUMBER = {byte: number for number, byte in enumerate(_ORDER)}  # which is a byte's token id; + 256: where a word ends
_LETTER = {byte: chr(byte if byte in _PLAIN else 256 + i - len(_PLAIN)) for i, byte in enumerate(_ORDER)}


class Tokenizer:
    """CLIP's."""

    def __init__(self, length: int = 77) -> None:
        """length: token ids of a text at most."""
        self._length = length
        self.start, self.end = 512 + _MERGES, 513 + _MERGES

    def tokenize(self, text: str) -> list[int]:
        """A text -> its ids from START to END; of one that is too long the first ids, and END."""
        found = [self.start, *(token for word in split(text) for token in self.encode(word)), self.end]
        return found if len(found) <= self._length else [*found[: self._length - 1], self.end]

    def encode(self, word: str) -> list[int]:
        """One of `split`'s words -> its ids."""
        if word in (START, END):
            return [self.start if word == START else self.end]
        bytes_ = word.encode()
        parts, ids = [_LETTER[byte] for byte in bytes_], [_NUMBER[byte] for byte in bytes_]
        parts[-1], ids[-1] = parts[-1] + _END_OF_WORD, ids[-1] + 256
        while len(parts) > 1:
            ranks = [self._ranks.get(f"{one} {other}", _MERGES) for one, other in pairwise(parts)]
            best = min(ranks)
            if best == _MERGES:
                break
            place = 0
            while place < len(ranks):  # from the left; what has just been joined is not joined again
                if ranks[place] == best:
                    parts[place : place + 2], ids[place : place + 2] = [parts[place] + parts[place + 1]], [512 + best]
                    del ranks[place : place + 1]
                    if place < len(ranks):
                        ranks[place] = _MERGES
                place += 1
        return ids

    @cached_property
    def _ranks(self) -> dict[str, int]:
        """`a b`: two parts that become one -> which of such pairs goes first."""
        text = zlib.decompressobj(_GZIP).decompress(_vocabulary().read_bytes(), _READ).decode("utf-8", "ignore")
        pairs = text.split("\n", _MERGES + 1)[1 : _MERGES + 1]
        return dict(zip(pairs, range(_MERGES), strict=True))


def split(text: str) -> list[str]:
    """A text, mended and in lower case -> its words, signs and digits."""
    if "&" in text or not (text.isascii() and text.isprintable()):
        import ftfy  # 0.1 s, and nothing to mend in other texts

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    words: list[str] = _WORDS.findall(" ".join(text.split()).lower())
    return words


def unseen_words(text: str, seen: Set[int] | None, tokenizer: Tokenizer | None = None) -> list[str]:
    """The words of a text, lower case, that hold a token which is not among those seen; each once, in order.

    Punctuation does not count; seen: token ids, None: all.
    """
    if seen is None:
        return []
    tokenizer = tokenizer or Tokenizer()
    words = dict.fromkeys(word for word in split(text) if word.isalnum())
    return [word for word in words if not all(token in seen for token in tokenizer.encode(word))]


def _vocabulary() -> Path:
    """Raises WeightsError when open_clip does not have it."""
    package = find_spec("open_clip")
    for folder in (package.submodule_search_locations or ()) if package else ():
        if (Path(folder) / _FILE).is_file():
            return Path(folder) / _FILE
    raise WeightsError(f"{_FILE} is not there - install open_clip_torch again, the vocabulary comes with it")
