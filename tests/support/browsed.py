"""Fixtures for tests of the page: a real server on a small index, and a real browser that records errors."""

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
HOSTILE = '<img src=x onerror="document.title=`owned`">.png'  # A file name that is markup.
PAINTED_COUNT = 112
PHOTO_COUNT = PAINTED_COUNT + 6  # There are six sample photos.
TIMEOUT_SECONDS = 40  # The first search with an image loads torch.

Json = dict[str, Any]


def paint(folder: Path) -> None:
    """Paint photos of many shapes and colours; the cat becomes green, the cup of coffee cyan."""
    random = np.random.default_rng(0)
    shapes = [(180, 120), (120, 180), (160, 160), (240, 60), (50, 200), (200, 150)]
    for number in range(PAINTED_COUNT):
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
    """A running server, for requests without a browser."""

    def __init__(self, home: str, photos: Path) -> None:
        self.home, self.photos = home, photos

    def request(self, path: str, picture: bytes | None = None, **parameters: object) -> Json:
        """Send a request, with the file of a picture as its body if one is given."""
        url = f"{self.home}/api/v1/{path}?{urlencode(parameters, doseq=True)}"
        with urllib.request.urlopen(url, picture, timeout=60) as answer:
            content: Json = json.load(answer)
        return content


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server with the fake encoder: the page shows the answers of the server, whatever the model."""
    pytest.importorskip("fastapi", reason="no fastapi: pip install flairsearch[serve]")
    from tests.support.served import open_index, serving_index

    work = tmp_path_factory.mktemp("page")
    photos = copy_samples(work / "photos")
    paint(photos)
    with open_index(work / "index") as engine:
        report = engine.add(photos)
    assert report.added == PHOTO_COUNT
    with serving_index(work / "index") as served:
        yield Site(served.url, photos)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM.is_file():
        pytest.skip(f"no browser at {CHROMIUM}")
    api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install flairsearch[dev]")
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


RECORD_VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => violations.push(event.violatedDirective));
"""


def is_search(message: Any) -> bool:
    """Whether a request or response is one of /search."""
    return "/api/v1/search" in message.url


class Tab:
    """One page, with its errors and its search requests."""

    def __init__(self, page: Any, site: Site) -> None:
        self.page, self.site = page, site
        self.console_errors: list[str] = []
        self.search_requests: list[Any] = []
        self.finished_requests: list[Any] = []  # The searches that were not cancelled.
        page.set_default_timeout(1000 * TIMEOUT_SECONDS)
        page.add_init_script(RECORD_VIOLATIONS)
        page.on("console", lambda line: line.type in ("error", "warning") and self.console_errors.append(line.text))
        page.on("pageerror", lambda error: self.console_errors.append(str(error)))
        page.on("request", lambda request: is_search(request) and self.search_requests.append(request))
        page.on("requestfinished", lambda request: is_search(request) and self.finished_requests.append(request))

    def open(self, path: str = "/") -> None:
        self.page.goto(self.site.home + path)
        self.wait_until("document.title.includes('·')")

    def search(self, text: str) -> None:
        """Type a text, press Enter and wait for its result; searches that typing started are cancelled."""
        count = len(self.search_requests)
        self.page.fill("#text", text)
        self.page.press("#text", "Enter")
        end = time.monotonic() + TIMEOUT_SECONDS
        while len(self.search_requests) == count or self.search_requests[-1] not in self.finished_requests:
            assert time.monotonic() < end, f"no answer to {text!r}"
            self.page.wait_for_timeout(20)
        first = self.search_requests[-1].response().json()["hits"][0]["id"]
        self.wait_until(f"document.querySelector('.card:has(img.loaded)')?.dataset.id === '{first}'")

    @property
    def search_parameters(self) -> dict[str, list[str]]:
        """The parameters of the latest search."""
        return parse_qs(urlsplit(self.search_requests[-1].url).query)

    @property
    def url_parameters(self) -> dict[str, list[str]]:
        """The parameters in the URL of the page."""
        return parse_qs(urlsplit(self.page.evaluate("location.href")).query)

    def shown_ids(self) -> list[int]:
        """The ids of the photos that have a card."""
        found: list[int] = self.page.eval_on_selector_all(
            ".card", "cards => cards.map(card => Number(card.dataset.id))"
        )
        return found

    def wait_until(self, condition: str) -> None:
        """Poll a condition; wait_for_function would need eval, which the policy of the page forbids."""
        end = time.monotonic() + TIMEOUT_SECONDS
        while not self.page.evaluate(condition):
            assert time.monotonic() < end, condition
            self.page.wait_for_timeout(20)


OpenTab = Callable[..., Tab]


@pytest.fixture
def open_tab(browser: Any, site: Site) -> Iterator[OpenTab]:
    """Open tabs that must not log errors or violate the content security policy."""
    tabs: list[tuple[Tab, Any]] = []

    def open_tab(path: str | None = "/", **options: object) -> Tab:
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 800}, **options})
        tab = Tab(context.new_page(), site)
        tabs.append((tab, context))
        if path is not None:
            tab.open(path)
        return tab

    yield open_tab
    for tab, context in tabs:
        violations = tab.page.evaluate("window.violations")
        context.close()
        assert violations == []
        assert tab.console_errors == []


BOUNDING_BOX = "element => { const r = element.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; }"


def check_boxes(tab: Tab, hits: list[Json]) -> None:
    """Check that the best box of each phrase is drawn where the server says."""
    for hit in hits:
        frame = tab.page.locator(f".card[data-id='{hit['id']}'] .frame")
        for i, phrase in enumerate(hit["phrases"]):
            lines = frame.locator(f"[data-phrase='{i}'] .line")
            wanted = phrase["regions"][:1]
            assert lines.count() == len(wanted)
            for region in wanted:
                left, top, right, bottom = region["box"]
                photo, drawn = frame.locator("img").evaluate(BOUNDING_BOX), lines.first.evaluate(BOUNDING_BOX)
                x, y = (photo[2] - photo[0]) / hit["width_px"], (photo[3] - photo[1]) / hit["height_px"]
                assert x == pytest.approx(y, rel=0.02), "the photo keeps its shape"
                where = [photo[0] + left * x, photo[1] + top * y, photo[0] + right * x, photo[1] + bottom * y]
                assert drawn == pytest.approx(where, abs=0.6)


Point = tuple[float, float]  # A point as fractions of an element's width and height.


def drag_finger(tab: Tab, selector: str, first: Point, last: Point) -> None:
    """Move a finger over an element from one point to another."""
    left, top, right, bottom = tab.page.locator(selector).evaluate(BOUNDING_BOX)
    touch = tab.page.context.new_cdp_session(tab.page)
    middle = [(first[0] + (last[0] - first[0]) * i / 4, first[1] + (last[1] - first[1]) * i / 4) for i in range(1, 5)]
    for kind, point in [("touchStart", first), *(("touchMove", point) for point in middle), ("touchEnd", None)]:
        points = [{"x": left + point[0] * (right - left), "y": top + point[1] * (bottom - top)}] if point else []
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})


def read_numbers(label: str | None) -> list[int]:
    """Return the numbers in the label of a box."""
    return [int(number) for number in re.findall(r"\d+", label or "")]


DROP_FILE = """([name, bytes]) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
    const event = (kind) => new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true });
    document.body.dispatchEvent(event("dragenter"));
    const shown = !document.querySelector("#drop-target").hidden;
    document.body.dispatchEvent(event("drop"));
    return shown;
}"""
