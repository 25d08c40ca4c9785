"""Token ids against OpenCLIP's own tokenizer, for texts of many kinds."""

from __future__ import annotations

import subprocess
import sys
import time
import unicodedata
from collections.abc import Sequence
from functools import cache
from html import entities
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flairsearch.core.errors import WeightsError
from flairsearch.model import tokenizer
from flairsearch.model.tokenizer import END, START, Tokenizer, split, unseen_words


@cache
def openclip_tokenizer(length: int = 77) -> Any:
    return open_clip.SimpleTokenizer(context_length=length)


@cache
def our_tokenizer(length: int = 77) -> Tokenizer:
    return Tokenizer(length)


def check(text: str, lengths: Sequence[int] = (16,)) -> None:
    """Compare all ids of a text, and the ids of the text cut to some lengths."""
    expected = openclip_tokenizer().encode(text)
    assert [token for word in split(text) for token in our_tokenizer().encode(word)] == expected, ascii(text)
    whole = [49406, *expected, 49407]
    for length in lengths:
        found = our_tokenizer(length).tokenize(text)
        assert found == (whole if len(whole) <= length else [*whole[: length - 1], 49407])
        assert openclip_tokenizer(length)(text)[0].tolist() == found + [0] * (length - len(found))


TEXTS = [
    *("", " ", "\t\n", "a", "A dog", " two   spaces\t", "a\nb\r\nc", "a photo of a dog, and a cat!", "!", "!!!", "a!b"),
    *("it's", "IT'S", "they're we've I'm he'll she'd don't", "'s", "''s", "'S'T'RE", "o'clock", "'ſ", "'\u212a"),
    *("<start_of_text>", "a <end_of_text> b", "<START_OF_TEXT>", "<|endoftext|>", "<start_of_text", "<ſtart_of_text>"),
    *("x<start_of_text>y<end_of_text>", "< start_of_text >", "&lt;start_of_text&gt;", "&amp;lt;end_of_text&amp;gt;"),
    *("R&B", "&", "&&", "&amp;", "&amp;amp;", "&amp;amp;amp;", "&#65;", "&#x1F436;", "&#0;", "&nbsp;a", "&bogus;"),
    *("caf\u00e9", "cafe\u0301", "CAFE\u0301", "schÃ¶n", "â€œquotedâ€\x9d", "donâ€™t", "l\u2019\u00e9t\u00e9"),
    *("ÃƒÂ©", "ï»¿bom", "\ufeffa", "ﬁne ﬂat", "ＦＵＬＬ　ｗｉｄｔｈ", "①②", "x²", "½", "1234567890", "3.14", "२३", "Ⅷ"),
    *("İstanbul", "ıI", "Straße ẞ", "ΣΊΣΥΦΟΣ", "ǅ", "ŉ", "犬と猫", "สวัสดี", "مرحبا", "שלום", "한국어", "한국어"),
    *("🐶", "👩‍👧", "👩🏽‍🚀", "🏳️‍🌈", "a🐶b", "☃️", "\u200d", "\u200b", "a\u200bb", "\u202eabc", "\u2028", "\u3000"),
    *("\x00", "a\x00b", "\x07", "\x1b[31mred\x1b[0m", "\x7f", "\x85", "\xa0", "\xad", "so\xadft", "\x1c\x1d\x1e\x1f"),
    *("_", "a_b", "snake_case_name", "__init__", "a-b", "e-mail@x.org", "https://x.org/?a=1&b=2", "C:\\dir\\f.jpg"),
    *("z\u0351\u0363\u0364a\u0489", "\u0301", "\u0301\u0301a", "\U000e0041", "\U0010ffff", "\ufffd", "\ue000"),
    *("a" * 500, "ab" * 300, "antidisestablishment " * 40, "é" * 200, "🐶" * 100, "1" * 200, "!" * 200, "'s" * 99),
]  # fmt: skip


def test_texts_equal_openclip(subtests: pytest.Subtests) -> None:
    for text in TEXTS:
        with subtests.test(ascii(text)[:30]):
            check(text, (77, 16, 3, 2))


WORDS = [
    *("a", "red", "ball", "Photo", "of", "THE", "white", "puppies", "isn't", "it's", "2024", "IMG_0012.jpg", "run!"),
    *("(two)", "dogs,", "café", "über", "naïve", "&amp;", "&eacute;", "&lt;b&gt;", "donâ€™t", "schÃ¶n", START, END),
    *("🐶", "犬", "e\u0301", "\u00a0", "--", "..."),
]  # fmt: skip


def words(rng: np.random.Generator) -> str:
    return str(rng.choice([" ", "", "  ", "\n", "\t", "-"])).join(rng.choice(WORDS, rng.integers(0, 40)).tolist())


def printable(rng: np.random.Generator) -> str:
    return "".join(map(chr, rng.integers(0x20, 0x7F, rng.integers(0, 200))))


def latin1(rng: np.random.Generator) -> str:
    """Latin-1 with control characters; much of it looks like UTF-8 that was read as Latin-1."""
    return "".join(map(chr, rng.integers(0, 256, rng.integers(0, 60))))


def mojibake(rng: np.random.Generator) -> str:
    """Texts whose UTF-8 was decoded with a wrong encoding, once or twice."""
    text = "".join(rng.choice([*WORDS, "“so”", "Straße", "æøå", "Ещё", "日本"], rng.integers(1, 8)).tolist())
    for _ in range(rng.integers(1, 3)):
        text = text.encode().decode(str(rng.choice(["latin-1", "cp1252", "cp1251", "mac-roman"])), "replace")
    return text


def anything(rng: np.random.Generator) -> str:
    """Letters of every Unicode plane, without surrogates."""
    top = int(rng.choice([0x250, 0x3000, 0x10000, 0x20000, 0x110000]))
    points = rng.integers(0, top, rng.integers(0, 60))
    return "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)


def marks(rng: np.random.Generator) -> str:
    """Letters and combining marks in any order."""
    pool = [chr(point) for point in range(0x300, 0x370)] + list("aeIOUß ñ한ก์")
    return "".join(rng.choice(pool, rng.integers(1, 40)).tolist())


def references(rng: np.random.Generator) -> str:
    """HTML character references: whole and cut, by name and by number, escaped up to three times."""
    names = list(entities.html5)
    parts = [f"&{rng.choice(names)}" for _ in range(4)] + [f"&#{rng.integers(0, 70000)};", f"&#x{rng.integers(9999):x}"]
    parts += ["&", ";", "&amp;" * int(rng.integers(1, 4)) + "lt;", " x "]
    return "".join(rng.choice(parts, rng.integers(1, 10)).tolist())


def quoted(rng: np.random.Generator) -> str:
    pool = [*"'sStTreREvVmMllLdD ’`´ſK\u212a", "'s", "'re", "'LL"]
    return "".join(rng.choice(pool, rng.integers(1, 30)).tolist())


GENERATORS = (words, printable, latin1, mojibake, anything, marks, references, quoted)


@given(seed=st.integers(0, 2**32 - 1))
@example(seed=0)
def test_random_texts_equal_openclip(seed: int) -> None:
    for generate in GENERATORS:
        rng = np.random.default_rng([seed, GENERATORS.index(generate)])
        for _ in range(15):
            check(generate(rng))


def test_every_letter_alone_and_within_a_word() -> None:
    """Up to 60 letters of each Unicode category, and all letters of the first blocks."""
    by_category: dict[str, list[int]] = {}
    for point in range(0x110000):
        if not 0xD800 <= point < 0xE000:
            by_category.setdefault(unicodedata.category(chr(point)), []).append(point)
    rng = np.random.default_rng(0)
    points = set(range(0x250)).union(*(rng.choice(group, min(60, len(group))) for group in by_category.values()))
    assert len(by_category) >= 28
    for letter in map(chr, sorted(map(int, points))):
        for text in (letter, f"a{letter}b"):
            assert [t for word in split(text) for t in our_tokenizer().encode(word)] == openclip_tokenizer().encode(
                text
            ), ascii(text)


def test_words_of_the_vocabulary_itself() -> None:
    """Each whole word of the vocabulary is one token; pairs of its entries give OpenCLIP's ids."""
    assert (our_tokenizer().start, our_tokenizer().end) == (49406, 49407)
    rng = np.random.default_rng(1)
    ended = [text.removesuffix("</w>") for text in openclip_tokenizer().encoder if text.endswith("</w>")]
    for word in rng.choice([text for text in ended if text.isascii() and text.isalpha()], 1000).tolist():
        assert our_tokenizer().encode(word) == [openclip_tokenizer().encoder[f"{word}</w>"]]
    for pair in rng.choice([text for text in openclip_tokenizer().encoder if text.isascii()], (1000, 2)).tolist():
        check("".join(pair).replace("</w>", " "))


def test_very_long_words(subtests: pytest.Subtests) -> None:
    for word in ("a" * 20_000, "pneumono" * 3_000, "🐶" * 5_000, "x" + "é" * 9_000):
        with subtests.test(ascii(word)[:10]):
            begun = time.perf_counter()
            found = our_tokenizer().tokenize(word)
            assert time.perf_counter() - begun < 5
            assert found == openclip_tokenizer()(word)[0].tolist()


def test_a_text_of_many_words() -> None:
    text = " ".join(np.random.default_rng(2).choice(WORDS, 5_000).tolist())
    assert our_tokenizer().tokenize(text) == openclip_tokenizer()(text)[0].tolist()


# -- Unseen words


def unseen_by_hand(text: str, seen: set[int]) -> list[str]:
    found = []
    for word in split(text):
        if word.isalnum() and word not in found and set(openclip_tokenizer().encode(word)) - seen:
            found.append(word)
    return found


@given(
    known=st.lists(st.sampled_from(WORDS), max_size=12),
    text=st.builds(
        str.join, st.sampled_from([" ", "", "  ", "\n", "\t", "-"]), st.lists(st.sampled_from(WORDS), max_size=40)
    ),
)
@example(known=WORDS[:12], text="")
@example(known=WORDS[:12], text=" ".join(WORDS))
@example(known=[], text="".join(WORDS))
@example(known=WORDS[12:], text="-".join(WORDS[::-1] * 2))
def test_unseen_words_of_random_texts(known: list[str], text: str) -> None:
    seen = {token for word in known for token in openclip_tokenizer().encode(word)}
    assert unseen_words(text, seen) == unseen_words(text, seen, our_tokenizer()) == unseen_by_hand(text, seen)
    assert unseen_words(text, None) == []
    assert unseen_words(text, frozenset(openclip_tokenizer().encode(text))) == []
    assert all(word in split(text) and word == word.lower() for word in unseen_words(text, set()))


def test_unseen_words_are_named_once_in_order() -> None:
    assert unseen_words("A zebra, a ZEBRA & the Ape's zoo: 7!", set(openclip_tokenizer().encode("a the's"))) == [
        *("zebra", "ape", "zoo", "7"),
    ]


# -- What is imported


def test_it_needs_neither_torch_nor_openclip() -> None:
    """Plain texts do not need ftfy either; a text that may need repair imports ftfy only."""
    code = (
        "import sys; from flairsearch.model.tokenizer import Tokenizer\n"
        "heavy = {'torch', 'open_clip', 'ftfy', 'numpy', 'transformers'}\n"
        "print(Tokenizer().tokenize('a red ball')); assert not heavy & set(sys.modules)\n"
        "print(Tokenizer().tokenize('caf\\xe9')); assert heavy & set(sys.modules) == {'ftfy'}\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = [[49406, *openclip_tokenizer().encode(text), 49407] for text in ("a red ball", "café")]
    assert done.stdout.splitlines() == [str(ids) for ids in expected]


@pytest.mark.parametrize("is_installed", [True, False])
def test_a_missing_vocabulary_raises_one_line(
    is_installed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """open_clip is installed without the file, or is not installed at all."""
    (tmp_path / "open_clip").mkdir()
    (tmp_path / "open_clip" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "open_clip"]:
        monkeypatch.delitem(sys.modules, name)
    if not is_installed:
        monkeypatch.setattr(tokenizer, "find_spec", lambda _: None)
    assert find_spec("open_clip") is not None
    with pytest.raises(WeightsError) as caught:
        Tokenizer().tokenize("a dog")
    assert len(str(caught.value).splitlines()) == 1
    assert " - " in str(caught.value)
