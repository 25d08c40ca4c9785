"""Links in the documents lead somewhere, every page is reached, and the figure can be read."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.support.pages import CHANGES, PAGES, README, ROOT, prose, text_of

pytestmark = pytest.mark.skipif(not README.is_file(), reason="no README.md")
# These documents are not pages of docs/, but their links are checked too.
OTHERS = (CHANGES, ROOT / "indexes/README.md", ROOT / "flairsearch/model/data/flair-small.md")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)) if not re.match(r"[a-z]+:", link)]
    for link in links:
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link} is not there"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link} has no such heading"


def test_all_pages_are_reached() -> None:
    linked = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in PAGES
        for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page))
    }
    assert {path.resolve() for path in PAGES} - {README} <= linked


def test_figure() -> None:
    """Its words are text, and it is drawn for light and dark."""
    source = text_of(ROOT / "docs" / "how-it-works.svg")
    root = ElementTree.fromstring(source)
    words = " ".join("".join(one.itertext()) for one in root.iter("{http://www.w3.org/2000/svg}text"))
    assert all(word in words for word in ("14 × 14", "512 bytes", "shortlist", "heat", "box"))
    assert "prefers-color-scheme: dark" in source
    assert not re.search(r"(href|src)=\"(?!#)|url\((?!#)|<script", source)
