"""A real server over a small index, and a real browser that complains: fixtures of the tests of the page."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import numpy as np
import pytest
from PIL import Image

from flairsearch.cli.samples import copy_samples

CHROMIUM = Path("/usr/bin/chromium")


HOSTILE = '<img src=x onerror="document.title=`owned`">.png'


PAINTED = 112
PHOTOS = PAINTED + 6  # with the samples


Answer = dict[str, Any]


def paint(folder: Path) -> None:
    """Photos of many shapes, each of its own colours; a cat that is green, and a cup of coffee that is cyan."""
    random = np.random.default_rng(0)
    shapes = [(180, 120), (120, 180), (160, 160), (240, 60), (50, 200), (200, 150)]
    for number in range(PAINTED):
        wide, high = shapes[number % len(shapes)]
        pixels = np.empty((high, wide, 3), np.uint8)
        pixels[:] = random.integers(0, 256, 3)
        left, top = random.integers(0, wide // 2), random.integers(0, high // 2)
        pixels[top : top + high // 2, left : left + wide // 2] = random.integers(0, 256, 3)
        name = HOSTILE if number == 0 else f"painted{number:03}.png"
        Image.fromarray(pixels).save(folder / name)
    for name, colour in (("chelsea.png", "lime"), ("coffee.png", "cyan")):  # The fake encoder finds these two first.
        with Image.open(folder / name) as sample:
            picture = Image.new("RGB", sample.size, colour)
        picture.paste("white", (20, 20, 60, 50))
        picture.save(folder / name)


class Site:
    """A running server, asked without a browser."""

    def __init__(self, home: str, photos: Path) -> None:
        self.home, self.photos = home, photos

    def ask(self, path: str, picture: bytes | None = None, **parameters: object) -> Answer:
        address = f"{self.home}/api/v1/{path}?{urlencode(parameters, doseq=True)}"
        with urllib.request.urlopen(address, picture, timeout=60) as answer:
            content: Answer = json.load(answer)
        return content


@pytest.fixture(filter="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The fake encoder's: the page shows what the server says, whatever the model."""
    pytest.importorskip("fastapi", reason="no fastapi: pip install flairsearch[serve]")
    from tests.support.served import open_index, serving_index

    work = tmp_path_factory.mktemp("page")
    photos = copy_samples(work / "photos")
    paint(photos)
    with open_index(work / "index") as engine:
        report = engine.add(photos)
    assert report.added == PHOTOS
    with serving_index(work / "index") as served:
        yield Site(served.url, photos)


@pytest.fixture(filter="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM.is_file():
        pytest.skip(f"no browser at {CHROMIUM}")
    api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install flairsearch[dev]")
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


WATCH = """
window.refused = [];
document.addEventListener("securitypolicyviolation", (event) => refused.push(event.violatedDirective));
"""


class Tab:
    """One page and all that it complained of and asked for."""

    def __init__(self, page: Any, site: Site) -> None:
        self.page, self.site = page, site
        self.complaints: list[str] = []
        self.searches: list[Any] = []
        self.answered: list[Any] = []  # those of the searches that were not given up for a newer one
        page.set_default_timeout(40000)  # the first picture that is searched with loads torch
        page.add_init_script(WATCH)
        page.on("console", lambda line: line.type in ("error", "warning") and self.complaints.append(line.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: "/api/v1/search" in request.url and self.searches.append(request))
        page.on("requestfinished", lambda request: "/api/v1/search" in request.url and self.answered.append(request))

    def go(self, path: str = "/") -> None:
        self.page.goto(self.site.home + path)
        self.until("document.title.includes('·')")

    def search(self, text: str) -> None:
        """Type and press Enter. The page asks while one types, and gives that up for what was typed in full."""
        many = len(self.searches)
        self.page.fill("#text", text)
        self.page.press("#text", "Enter")
        end = time.monotonic() + 40
        while len(self.searches) == many or self.searches[-1] not in self.answered:
            assert time.monotonic() < end, f"no answer to {text!r}"
            self.page.wait_for_timeout(20)
        first = self.searches[-1].response().json()["hits"][0]["id"]
        self.until(f"document.querySelector('.card:has(img.loaded)')?.dataset.id === '{first}'")

    @property
    def asked(self) -> dict[str, list[str]]:
        """Parameters of the latest search."""
        return parse_qs(urlsplit(self.searches[-1].url).query)

    @property
    def address(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.page.evaluate("location.href")).query)

    def ids(self) -> list[int]:
        found: list[int] = self.page.eval_on_selector_all(".card", "all => all.map(one => Number(one.dataset.id))")
        return found

    def until(self, condition: str) -> None:
        """Asked again and again: the browser's own way to wait is an eval, which the page's policy forbids."""
        end = time.monotonic() + 40
        while not self.page.evaluate(condition):
            assert time.monotonic() < end, condition
            self.page.wait_for_timeout(20)


Open = Callable[..., Tab]


@pytest.fixture
def open_tab(browser: Any, site: Site) -> Iterator[Open]:
    """Tabs that must not complain of anything."""
    tabs: list[tuple[Tab, Any]] = []

    def open_tab(path: str | None = "/", **options: object) -> Tab:
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 800}, **options})
        tab = Tab(context.new_page(), site)
        tabs.append((tab, context))
        if path is not None:
            tab.go(path)
        return tab

    yield open_tab
    for tab, context in tabs:
        refused = tab.page.evaluate("window.refused")
        context.close()
        assert refused == []
        assert tab.complaints == []


ROOM = "element => { const r = element.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; }"


def check_boxes(tab: Tab, hits: list[Answer], all_places: bool = False) -> None:
    """The numbers of the boxes are the server's, and on the screen they lie over what they speak of."""
    for hit in hits:
        frame = tab.page.locator(f".card[data-id='{hit['id']}'] .frame")
        for i, phrase in enumerate(hit["phrases"]):
            lines = frame.locator(f"[data-phrase='{i}'] .line")
            wanted = phrase["regions"] if all_places else phrase["regions"][:1]
            assert lines.count() == len(wanted)
            for region in wanted:
                left, top, right, bottom = region["box"]
                photo, drawn = frame.locator("img").evaluate(ROOM), lines.first.evaluate(ROOM)
                x, y = (photo[2] - photo[0]) / hit["width_px"], (photo[3] - photo[1]) / hit["height_px"]
                assert x == pytest.approx(y, rel=0.02), "the photo keeps its shape"
                where = [photo[0] + left * x, photo[1] + top * y, photo[0] + right * x, photo[1] + bottom * y]
                assert drawn == pytest.approx(where, abs=0.6)


Place = tuple[float, float]  # shares of an element's width and height


def move_finger(tab: Tab, what: str, *places: Place) -> None:
    left, top, right, bottom = tab.page.locator(what).evaluate(ROOM)
    touch = tab.page.context.new_cdp_session(tab.page)
    first, last = places[0], places[-1]
    middle = [(first[0] + (last[0] - first[0]) * i / 4, first[1] + (last[1] - first[1]) * i / 4) for i in range(1, 5)]
    for kind, place in [("touchStart", first), *(("touchMove", one) for one in middle), ("touchEnd", None)]:
        points = [{"x": left + place[0] * (right - left), "y": top + place[1] * (bottom - top)}] if place else []
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})


def read_numbers(label: str | None) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", label or "")]


DROP = """([name, bytes]) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
    const event = (kind) => new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true });
    document.body.dispatchEvent(event("dragenter"));
    const shown = !document.querySelector("#drop-target").hidden;
    document.body.dispatchEvent(event("drop"));
    return shown;
}"""
