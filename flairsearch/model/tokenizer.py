"""Tokenize texts as OpenCLIP does, byte-pair encoding over CLIP's vocabulary, without torch.

The vocabulary file comes with open_clip; reading it imports nothing of that package.
Sources: byte-pair encoding, Sennrich et al., arXiv 1508.07909; over bytes, GPT-2, Radford et al., 2019.
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
_VOCABULARY_FILE = "bpe_simple_vocab_16e6.txt.gz"
_MERGE_COUNT = 49152 - 256 - 2  # CLIP uses this many lines of the file, after the first.
_WORD_PATTERN = regex.compile(
    rf"{START}|{END}|'s|'t|'re|'ve|'m|'ll|'d|\p{{L}}+|\p{{N}}|[^\s\p{{L}}\p{{N}}]+", regex.IGNORECASE
)
_MAX_UNPACKED_BYTES = 1 << 20  # CLIP's lines end before this byte; the rest of the file is not unpacked.
_GZIP_WINDOW = 31  # This window size makes zlib read the gzip format.
_END_OF_WORD = "</w>"
# GPT-2's byte alphabet: printable bytes are the letters of Latin-1, the other 68 are the letters from U+0100 on.
_PRINTABLE_BYTES = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
# The position of a byte in this order is its token id; + 256 marks the end of a word.
_BYTE_ORDER = [*_PRINTABLE_BYTES, *(byte for byte in range(256) if byte not in _PRINTABLE_BYTES)]
_TOKEN_OF_BYTE = {byte: token for token, byte in enumerate(_BYTE_ORDER)}
_LETTER_OF_BYTE = {
    byte: chr(byte if byte in _PRINTABLE_BYTES else 256 + i - len(_PRINTABLE_BYTES))
    for i, byte in enumerate(_BYTE_ORDER)
}


class Tokenizer:
    """CLIP's tokenizer."""

    def __init__(self, length: int = 77) -> None:
        """Set the length: the maximal number of token ids of a text."""
        self._length = length
        self.start, self.end = 512 + _MERGE_COUNT, 513 + _MERGE_COUNT

    def tokenize(self, text: str) -> list[int]:
        """Return the ids of a text from START to END; a text that is too long is cut, and its last id becomes END."""
        ids = [self.start, *(token for word in split(text) for token in self.encode(word)), self.end]
        return ids if len(ids) <= self._length else [*ids[: self._length - 1], self.end]

    def encode(self, word: str) -> list[int]:
        """Return the ids of one of the words that `split` returns."""
        if word in (START, END):
            return [self.start if word == START else self.end]
        bytes_ = word.encode()
        parts, ids = [_LETTER_OF_BYTE[byte] for byte in bytes_], [_TOKEN_OF_BYTE[byte] for byte in bytes_]
        parts[-1], ids[-1] = parts[-1] + _END_OF_WORD, ids[-1] + 256
        while len(parts) > 1:
            ranks = [self._ranks.get(f"{left} {right}", _MERGE_COUNT) for left, right in pairwise(parts)]
            best = min(ranks)
            if best == _MERGE_COUNT:
                break
            position = 0
            while position < len(ranks):  # Merge from left to right; a merged part is not merged again in this pass.
                if ranks[position] == best:
                    parts[position : position + 2] = [parts[position] + parts[position + 1]]
                    ids[position : position + 2] = [512 + best]
                    del ranks[position]
                    if position < len(ranks):
                        ranks[position] = _MERGE_COUNT
                position += 1
        return ids

    @cached_property
    def _ranks(self) -> dict[str, int]:
        """The rank of each merge `a b`; the merge of the lowest rank is applied first."""
        packed = _vocabulary_path().read_bytes()
        text = zlib.decompressobj(_GZIP_WINDOW).decompress(packed, _MAX_UNPACKED_BYTES).decode("utf-8", "ignore")
        pairs = text.split("\n", _MERGE_COUNT + 1)[1 : _MERGE_COUNT + 1]
        return dict(zip(pairs, range(_MERGE_COUNT), strict=True))


def split(text: str) -> list[str]:
    """Repair a text, lower its case, and split it into words, punctuation and digits."""
    if "&" in text or not (text.isascii() and text.isprintable()):
        import ftfy  # The import takes 0.1 s; other texts need no repair.

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    words: list[str] = _WORD_PATTERN.findall(" ".join(text.split()).lower())
    return words


def unseen_words(text: str, seen: Set[int] | None, tokenizer: Tokenizer | None = None) -> list[str]:
    """Return the words of a text, in lower case, with a token that is not in `seen`; each once, in order.

    Punctuation does not count. seen: token ids; None: every token counts as seen.
    """
    if seen is None:
        return []
    tokenizer = tokenizer or Tokenizer()
    words = dict.fromkeys(word for word in split(text) if word.isalnum())
    return [word for word in words if not all(token in seen for token in tokenizer.encode(word))]


def _vocabulary_path() -> Path:
    """Return the path of the vocabulary file.

    Raises WeightsError when open_clip does not have it.
    """
    package = find_spec("open_clip")
    for folder in (package.submodule_search_locations or ()) if package else ():
        if (Path(folder) / _VOCABULARY_FILE).is_file():
            return Path(folder) / _VOCABULARY_FILE
    raise WeightsError(f"{_VOCABULARY_FILE} is not there - install open_clip_torch again, the vocabulary comes with it")
