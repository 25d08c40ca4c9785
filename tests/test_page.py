"""The page in a real browser, on a real server over a small index."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import numpy as np
import pytest
from PIL import Image

from flairsearch.demo import copy_samples
from flairsearch.engine import Engine

CHROMIUM = Path("/usr/bin/chromium")
ROOT = Path(__file__).parents[1]
STATIC = ROOT / "flairsearch" / "static"
HOSTILE = '<img src=x onerror="document.title=`owned`">.png'
PAINTED = 110
Answer = dict[str, Any]


def test_modules_are_small_and_build_no_markup() -> None:
    """Data becomes text, never markup; and nothing that the page's own policy forbids."""
    for path in STATIC.glob("*.js"):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) < 400, path.name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)
        assert "".join(re.findall(r"https?://[^\"'`\s]+", text)) == "http://www.w3.org/2000/svg" or "://" not in text
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"\son\w+=|\sstyle=|<style|<script(?![^>]*\ssrc=)|https?://", page)
    named = re.findall(r'(?:src|href)="/static/([^"]+)"', page)
    assert named
    assert all((STATIC / name).is_file() for name in named)


# -- a server, a browser


def paint(folder: Path) -> None:
    """Photos of many shapes, each of its own colours."""
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


class Site:
    """A running server, asked without a browser."""

    def __init__(self, home: str, photos: Path) -> None:
        self.home, self.photos = home, photos

    def ask(self, path: str, picture: bytes | None = None, **parameters: object) -> Answer:
        address = f"{self.home}/api/v1/{path}?{urlencode(parameters, doseq=True)}"
        with urllib.request.urlopen(address, picture, timeout=60) as answer:
            content: Answer = json.load(answer)
        return content


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    pytest.importorskip("fastapi", reason="no fastapi: pip install flairsearch[serve]")
    pytest.importorskip("skimage", reason="no sample photos: pip install flairsearch[demo]")
    work = tmp_path_factory.mktemp("page")
    photos = copy_samples(work / "photos")
    paint(photos)
    with Engine.open(work / "index", model="flair-tiny", device="cpu") as engine:
        report = engine.add(photos)
    assert report.added == PAINTED + 8
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(ROOT / "cli.py"), "serve", "--index", str(work / "index"), "--port", str(port)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with (work / "log").open("w+") as log:
        server = subprocess.Popen([*command, "--device", "cpu"], stdout=log, stderr=log, env=environment, cwd=work)
        try:
            here = Site(f"http://127.0.0.1:{port}", photos)
            wait_for(server, here, work / "log")
            yield here
        finally:
            server.terminate()
            server.wait(20)


def wait_for(server: subprocess.Popen[bytes], site: Site, log: Path) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            site.ask("search", q="a cat", k=1)  # the model is loaded, compiled code too
            return
        except OSError:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.2)


@pytest.fixture(scope="module")
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
        page.set_default_timeout(15000)
        page.add_init_script(WATCH)
        page.on("console", lambda line: line.type in ("error", "warning") and self.complaints.append(line.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: "/api/v1/search" in request.url and self.searches.append(request))

    def go(self, path: str = "/") -> None:
        self.page.goto(self.site.home + path)
        self.until("document.title.includes('·')")

    def search(self, text: str) -> None:
        self.page.fill("#text", text)
        with self.page.expect_response(lambda one: "/api/v1/search" in one.url) as caught:
            self.page.press("#text", "Enter")
        first = caught.value.json()["hits"][0]["id"]
        self.until(f"document.querySelector('.card:has(img.there)')?.dataset.id === '{first}'")

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
        end = time.monotonic() + 15
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


# -- what it does

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


def test_typing_shows_photos_with_their_places(open_tab: Open, site: Site) -> None:
    tab = open_tab()
    assert tab.page.evaluate("document.activeElement.id") == "text"
    assert f"{PAINTED + 8} photos" in tab.page.inner_text("#photos")
    tab.search("a cat with green eyes")
    answer = site.ask("search", q="a cat with green eyes", k=48)
    hits = answer["hits"]
    assert "chelsea" in hits[0]["path"]
    assert tab.ids()[:5] == [hit["id"] for hit in hits[:5]]
    check_boxes(tab, hits[:5])
    first = tab.page.locator(".card").first
    assert f"{hits[0]['score']:.3f}" in first.inner_text()
    assert f"sure {int(100 * hits[0]['confidence'] + 1e-6)} %" in first.inner_text()
    assert "chelsea.png" in first.inner_text()
    assert tab.address == {"q": ["a cat with green eyes"]}
    assert f"{PAINTED + 8} photos searched · 48 shown" in tab.page.inner_text("#tally")
    assert "48 photos" in tab.page.inner_text("#announce")
    assert tab.page.locator("#note").is_hidden()
    tab.search("a zyxgfl cat")
    tab.until("document.querySelector('#note').textContent.includes('not trained on “zyxgfl”')")


def test_searches_while_one_types(open_tab: Open) -> None:
    tab = open_tab()
    tab.page.keyboard.type("a cat")
    tab.page.wait_for_selector(".card")
    assert tab.address == {"q": ["a cat"]}
    tab.page.keyboard.type(" asleep")
    tab.until("location.search.includes('asleep')")
    tab.page.go_back()  # what was typed is one step
    tab.page.wait_for_selector("#welcome", state="visible")


@pytest.mark.slow
def test_phrases_and_exclusions(open_tab: Open, site: Site) -> None:
    tab = open_tab()
    tab.page.fill("#text", "a cat")
    tab.page.press("#text", "Shift+Enter")
    tab.search('an orange suit -flag -"a dark sky"')
    assert tab.asked["q"] == ["a cat", "an orange suit"]
    assert tab.asked["not"] == ["flag", "a dark sky"]
    assert tab.page.locator(".chip").all_inner_texts() == ["a cat", "not\nflag", "not\na dark sky"]
    assert tab.page.input_value("#text") == "an orange suit"
    hits = site.ask("search", q=["a cat", "an orange suit"], **{"not": ["flag", "a dark sky"]}, k=48)["hits"]
    check_boxes(tab, hits[:4])
    card = tab.page.locator(".card").first
    colours = card.locator(".line").evaluate_all("all => all.map(one => one.getAttribute('stroke'))")
    assert sorted(colours) == ["#56b4e9", "#e69f00"]
    assert f"weakest: {hits[0]['weakest']}" in card.inner_text()
    with tab.page.expect_response(lambda one: "/api/v1/search" in one.url):
        tab.page.click("[aria-label='Remove not flag']")
    tab.page.focus("[aria-label='Change phrase a cat']")
    with tab.page.expect_response(lambda one: "/api/v1/search" in one.url):
        tab.page.keyboard.press("Delete")
    assert tab.asked["q"] == ["an orange suit"]
    assert tab.asked["not"] == ["a dark sky"]
    assert tab.page.evaluate("document.activeElement.id") == "text"


def test_only_exclusions_ask_for_nothing(open_tab: Open) -> None:
    tab = open_tab()
    tab.page.fill("#text", "-leash")
    tab.page.press("#text", "Enter")
    tab.until("!document.querySelector('#note').hidden")
    assert tab.searches == []
    assert "Say what to look for" in tab.page.inner_text("#note")


def test_heat_while_the_pointer_is_there(open_tab: Open, site: Site) -> None:
    tab = open_tab("/?q=a+cat")
    card = tab.page.locator(".card").first
    with tab.page.expect_response(lambda one: "/api/v1/regions/" in one.url):
        card.hover()
    tab.page.wait_for_selector(".card .frame.warm")
    hit = site.ask(f"regions/{tab.ids()[0]}", q="a cat")
    (phrase,) = hit["phrases"]
    heat = np.array(phrase["heat"])
    raised = np.maximum(heat - heat.mean(), 0)
    wanted = 255 * 0.75 * (raised / raised.max()) ** 0.75  # how much it covers the photo in the middle of each cell
    assert np.abs(wanted - wanted[::-1]).max() > 100
    left, top, right, bottom = phrase["view"]
    rows, columns = heat.shape
    x = (left + (np.arange(columns) + 0.5) / columns * (right - left)) / hit["width_px"]
    y = (top + (np.arange(rows) + 0.5) / rows * (bottom - top)) / hit["height_px"]
    drawn = card.locator("canvas").evaluate(
        """(canvas, [x, y]) => {
            const { data, width, height } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            const at = (x, y) => 4 * (Math.floor(y * height) * width + Math.floor(x * width)) + 3;
            return y.map((y) => x.map((x) => data[at(x, y)]));
        }""",
        [x.tolist(), y.tolist()],
    )
    assert np.abs(np.array(drawn) - wanted).max() < 25  # the middle lies between two pixels
    tab.page.mouse.move(2, 2)
    tab.page.wait_for_selector(".card .frame.warm", state="detached")


@pytest.mark.slow
def test_large_view(open_tab: Open, site: Site) -> None:
    tab = open_tab("/?q=a+cat")
    tab.page.wait_for_selector(".card")
    ids = tab.ids()
    tab.page.locator(".card").nth(1).click()
    tab.page.wait_for_selector("#viewer[open]")
    hits = site.ask("search", q="a cat", k=48)["hits"]
    assert tab.address["photo"] == [str(ids[1])]
    assert tab.page.inner_text("#viewer-name") == Path(hits[1]["path"]).name
    assert f"{hits[1]['width_px']} × {hits[1]['height_px']} pixels" in tab.page.inner_text("#viewer-facts")
    lines = tab.page.locator("#viewer-frame .line")
    drawn = lines.evaluate_all("all => all.map(e => ['x', 'y', 'width', 'height'].map(n => +e.getAttribute(n)))")
    boxes = [region["box"] for region in hits[1]["phrases"][0]["regions"]]
    assert sorted(drawn) == sorted([box[0], box[1], box[2] - box[0], box[3] - box[1]] for box in boxes)
    tab.page.uncheck("#viewer-phrases input")
    assert not lines.first.is_visible()
    tab.page.check("#viewer-phrases input")
    tab.page.keyboard.press("h")
    tab.page.wait_for_selector("#viewer-frame.warm")
    tab.page.keyboard.press("ArrowRight")
    assert tab.address["photo"] == [str(ids[2])]
    tab.page.keyboard.press("ArrowLeft")
    tab.page.keyboard.press("ArrowLeft")
    tab.page.keyboard.press("ArrowLeft")  # there is none before the first
    assert tab.address["photo"] == [str(ids[0])]
    assert tab.page.get_attribute("#viewer-original", "href") == f"/api/v1/images/{ids[0]}"
    tab.page.keyboard.press("Escape")
    tab.page.wait_for_selector("#viewer", state="hidden")
    tab.until("!location.search.includes('photo')")
    assert tab.page.evaluate("document.activeElement.dataset.id") == str(ids[0])
    tab.page.go_forward()
    tab.page.wait_for_selector("#viewer[open]")
    tab.page.reload()  # a link to a photo opens it
    tab.page.wait_for_selector("#viewer[open]")
    tab.page.click("#viewer-like")
    tab.until("location.search.includes('image=')")
    tab.page.wait_for_selector("#viewer", state="hidden")
    assert tab.asked["image"] == [str(ids[0])]
    assert "q" not in tab.asked
    tab.page.wait_for_selector(f".card[data-id='{ids[0]}']")


@pytest.mark.slow
def test_a_box_drawn_with_the_mouse(open_tab: Open, site: Site) -> None:
    tab = open_tab("/?q=a+cat&ext=png")
    hit = site.ask("search", q="a cat", ext="png", k=1)["hits"][0]
    tab.page.locator(".card").first.click()
    tab.until("document.querySelector('#viewer-image').naturalWidth > 0")
    left, top, right, bottom = tab.page.locator("#viewer-frame").evaluate(ROOM)
    wide, high = right - left, bottom - top
    mouse = tab.page.mouse
    mouse.move(left + 0.7 * wide, top + 0.8 * high)  # from below to above
    mouse.down()
    mouse.move(left + 0.5 * wide, top + 0.5 * high)
    mouse.move(left + 0.3 * wide, top + 0.2 * high)
    mouse.up()
    tab.page.click("text=Search for this part")
    tab.page.wait_for_selector("#viewer", state="hidden")
    tab.page.wait_for_selector(".chip canvas")
    drawn = [int(part) for part in tab.asked["box"][0].split(",")]
    width, height = hit["width_px"], hit["height_px"]
    assert drawn == pytest.approx([0.3 * width, 0.2 * height, 0.7 * width, 0.8 * height], abs=1.5)
    assert tab.asked["image"] == [str(hit["id"])]
    assert tab.asked["ext"] == ["png"], "the filters stay"
    tab.until(f"document.querySelector('.card')?.dataset.id === '{hit['id']}'")
    wanted = site.ask("search", image=hit["id"], box=tab.asked["box"][0], ext="png", k=48)["hits"]
    assert tab.ids()[:3] == [one["id"] for one in wanted[:3]]
    check_boxes(tab, wanted[:3])
    tab.search("green eyes")  # picture and text together
    assert tab.asked["q"] == ["green eyes"]
    assert tab.asked["image"] == [str(hit["id"])]
    tab.page.go_back()
    tab.until("!location.search.includes('green')")
    tab.page.go_back()
    tab.page.wait_for_selector("#viewer[open]")


def test_a_box_moved_by_keys_and_by_a_finger(open_tab: Open) -> None:
    tab = open_tab("/?q=a+cat", has_touch=True)
    tab.page.locator(".card").first.click()
    tab.page.wait_for_selector("#viewer[open]")
    tab.page.keyboard.press("b")
    part = tab.page.locator("#viewer-frame .part")
    before = read_numbers(part.get_attribute("aria-label"))
    tab.page.keyboard.press("ArrowRight")
    tab.page.keyboard.press("Shift+ArrowUp")
    after = read_numbers(part.get_attribute("aria-label"))
    assert after[0] > before[0]
    assert after[2] - after[0] == before[2] - before[0]
    assert after[3] < before[3]
    tab.page.keyboard.press("Escape")  # the box goes, the view stays
    assert part.is_hidden()
    assert tab.page.locator("#viewer[open]").count() == 1
    move_finger(tab, "#viewer-frame", (0.2, 0.2), (0.2, 0.9))  # a finger alone draws none: it turns and scrolls
    assert part.is_hidden()
    tab.page.click("#viewer-part")
    assert read_numbers(part.get_attribute("aria-label")) == before
    move_finger(tab, "#viewer-frame", (0.1, 0.1), (0.5, 0.9))  # beside the box: another one
    drawn = read_numbers(part.get_attribute("aria-label"))
    wide, high = before[2] + before[0], before[3] + before[1]
    assert drawn == pytest.approx([0.1 * wide, 0.1 * high, 0.5 * wide, 0.9 * high], abs=2)
    part.focus()
    tab.page.keyboard.press("Enter")
    tab.until("location.search.includes('box=')")
    assert tab.asked["box"] == [",".join(map(str, drawn))]


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
    const shown = !document.querySelector("#drop").hidden;
    document.body.dispatchEvent(event("drop"));
    return shown;
}"""


@pytest.mark.slow
def test_a_picture_dropped_chosen_and_cut(open_tab: Open, site: Site) -> None:
    tab = open_tab()
    content = (site.photos / "coffee.png").read_bytes()
    with tab.page.expect_response(lambda one: "/api/v1/search" in one.url) as caught:
        assert tab.page.evaluate(DROP, ["<b>coffee</b>.png", list(content)])
    assert caught.value.request.method == "POST"
    tab.page.wait_for_selector(".card")
    assert tab.ids()[:8] == [hit["id"] for hit in site.ask("search", content, k=48)["hits"][:8]]
    assert "coffee.png" in (tab.page.get_attribute(".card", "title") or "")
    assert "<b>coffee</b>.png" in tab.page.inner_text(".chip")
    tab.page.wait_for_selector(".chip canvas")
    tab.page.locator(".card").first.hover()
    tab.page.wait_for_selector(".card .frame.warm")
    tab.page.set_input_files("#file", str(site.photos / "chelsea.png"))
    tab.until("document.querySelector('.card')?.title.includes('chelsea')")
    tab.page.click(".chip .edit")
    tab.page.wait_for_selector("#picture-frame", state="visible")
    left, top, right, bottom = tab.page.locator("#picture-frame").evaluate(ROOM)
    tab.page.mouse.move(left + 2, top + 2)
    tab.page.mouse.down()
    tab.page.mouse.move((left + right) / 2, (top + bottom) / 2, steps=3)
    tab.page.mouse.up()
    with tab.page.expect_response(lambda one: "/api/v1/search" in one.url) as caught:
        tab.page.click("#picture-use")
    box = [int(part) for part in tab.asked["box"][0].split(",")]
    with Image.open(site.photos / "chelsea.png") as picture:
        wide, high = picture.size
    assert box[2:] == pytest.approx([wide / 2, high / 2], abs=2)
    assert caught.value.request.method == "POST"
    tab.page.reload()  # the file is not in the address
    tab.page.wait_for_selector("#alert", state="visible")
    assert "drop it here again" in tab.page.inner_text("#alert")


PASTE = """(bytes) => {
    const clipboardData = new DataTransfer();
    clipboardData.items.add(new File([new Uint8Array(bytes)], "image.png", { type: "image/png" }));
    const event = new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true });
    document.activeElement.dispatchEvent(event);
}"""


def test_a_picture_pasted_and_what_is_none(open_tab: Open, site: Site) -> None:
    tab = open_tab()
    tab.page.evaluate(PASTE, list((site.photos / "chelsea.png").read_bytes()))
    tab.until("document.querySelector('.card')?.title.includes('chelsea')")
    tab.page.evaluate(DROP.replace("image/png", "text/plain"), ["notes.txt", [65]])
    tab.page.wait_for_selector("#alert", state="visible")
    assert re.search("“notes.txt”.? is no picture", tab.page.inner_text("#alert"))
    assert len(tab.searches) == 1
    tab.page.click("#alert >> text=Dismiss")
    tab.page.click("[aria-label='Remove the picture']")
    tab.page.wait_for_selector("#welcome", state="visible")
    assert tab.page.evaluate("document.activeElement.id") == "text"


def test_nothing_is_indexed(open_tab: Open, site: Site) -> None:
    tab = open_tab(None)
    empty = json.dumps({**site.ask("status"), "photos": 0, "views": 0, "folders": []})
    tab.page.route("**/api/v1/status", lambda route: route.fulfill(body=empty, content_type="application/json"))
    tab.go()
    assert "flairsearch index FOLDER" in tab.page.inner_text("#nothing")
    assert tab.page.locator("#hello").is_hidden()


@pytest.mark.slow
def test_scrolling_reaches_the_last_photo(open_tab: Open, site: Site) -> None:
    tab = open_tab("/?q=a+cat")
    tab.page.wait_for_selector(".card")
    heights, most = [], 0
    for _ in range(60):
        tab.page.mouse.wheel(0, 700)
        tab.page.wait_for_timeout(60)
        most = max(most, len(tab.ids()))
        heights.append(tab.page.evaluate("scrollY"))
        if "That was all" in tab.page.inner_text("#end") and len(heights) > 2 and heights[-1] == heights[-3]:
            break
    assert f"That was all: {PAINTED + 8} photos." in tab.page.inner_text("#end")
    wanted = [hit["id"] for hit in site.ask("search", q="a cat", k=200)["hits"]]
    assert tab.ids()[-1] == wanted[-1]
    assert len(tab.searches) == 3
    assert most < 90, "those out of sight cost nothing"
    tab.page.locator(".card").last.focus()
    tab.page.keyboard.press("Home")
    assert tab.page.evaluate("document.activeElement.dataset.id") == str(wanted[0])
    tab.page.keyboard.press("End")
    assert tab.page.evaluate("document.activeElement.dataset.id") == str(wanted[-1])


def test_by_keyboard_alone(open_tab: Open, site: Site) -> None:
    tab = open_tab()
    tab.page.keyboard.type("a cat")
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_selector(".card")
    ids = [hit["id"] for hit in site.ask("search", q="a cat", k=48)["hits"]]
    for _ in range(12):
        tab.page.keyboard.press("Tab")
        if tab.page.evaluate("document.activeElement.classList.contains('card')"):
            break
    focused = "document.activeElement.dataset.id"
    assert tab.page.evaluate(focused) == str(ids[0])
    tab.page.wait_for_selector(".card .frame.warm")  # heat for the keyboard too
    tab.page.keyboard.press("ArrowRight")
    assert tab.page.evaluate(focused) == str(ids[1])
    tab.page.keyboard.press("ArrowDown")
    below = tab.page.evaluate(ROOM.replace("element =>", "() => { const element = document.activeElement;") + "}")
    tab.page.keyboard.press("ArrowUp")
    assert tab.page.evaluate("document.activeElement.getBoundingClientRect().top") < below[1]
    assert tab.page.evaluate(focused) == str(ids[1])
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_selector("#viewer[open]")
    tab.page.keyboard.press("Escape")
    tab.page.wait_for_selector("#viewer", state="hidden")
    assert tab.page.evaluate(focused) == str(ids[1])
    tab.page.keyboard.press("?")
    tab.page.wait_for_selector("#help[open]")
    tab.page.keyboard.press("Escape")
    tab.page.keyboard.press("/")
    assert tab.page.evaluate("document.activeElement.id") == "text"
    tab.page.keyboard.type("?/")
    assert tab.page.input_value("#text") == "?/"


@pytest.mark.slow
def test_filters_are_in_the_address(open_tab: Open, site: Site) -> None:
    tab = open_tab("/?q=a+cat")
    tab.page.click("#scope-open")
    tab.page.click(".places .left")
    tab.page.click(".places .right")  # not at both
    tab.page.click(".kinds >> text=PNG")
    tab.page.select_option("[name=max_false_alarm]", "20%")
    tab.until("document.querySelector('.card.missed')")
    assert tab.address["at"] == ["right"]
    assert tab.asked["ext"] == ["png"]
    assert "by chance?" in tab.page.inner_text(".card.missed >> nth=0")
    tab.page.check("[name=hide]")
    tab.until("document.querySelector('#tally').textContent.includes('hidden')")
    assert tab.page.locator(".card.missed").count() == 0
    assert tab.page.inner_text("#scope-count") == "3"
    again = open_tab(tab.page.url.removeprefix(site.home))
    again.until("document.querySelector('#tally').textContent.includes('hidden')")
    assert again.asked == tab.asked
    assert again.page.locator("[name=at]:checked").evaluate_all("all => all.map(one => one.value)") == ["right"]
    with tab.page.expect_response(lambda one: "/api/v1/search" in one.url):
        tab.page.click("#scope-clear")
    assert tab.address == {"q": ["a cat"]}


def test_filters_that_no_control_can_show_stay(open_tab: Open) -> None:
    tab = open_tab("/?q=a+cat&since=2001&min_area=0.055&ext=png,xyz")
    tab.page.wait_for_selector("#tally:not(:empty)")
    tab.page.click("#scope-open")
    assert tab.page.inner_text("#area-shown") == "5.5 % of the photo"
    assert tab.page.inner_text("#scope-count") == "3"
    tab.page.click(".places .left")
    tab.page.click(".kinds >> text=JPEG")
    tab.until("location.search.includes('jpg')")
    kept = {name: tab.address[name] for name in ("since", "min_area", "at")}
    assert kept == {"since": ["2001"], "min_area": ["0.055"], "at": ["left"]}
    assert {kind for given in tab.address["ext"] for kind in given.split(",")} >= {"png", "xyz", "jpg"}


def test_back_shows_at_once_what_was_there(open_tab: Open) -> None:
    tab = open_tab("/?q=a+cat")
    tab.page.wait_for_selector(".card")
    ids = tab.ids()
    tab.page.mouse.wheel(0, 600)
    tab.until("scrollY > 500")
    where = tab.page.evaluate("scrollY")
    tab.search("a rocket")
    tab.until("scrollY === 0")
    many = len(tab.searches)
    tab.page.go_back()
    tab.until("document.querySelector('#text').value === 'a cat'")
    tab.until(f"Math.abs(scrollY - {where}) < 2")
    assert len(tab.searches) == many
    tab.page.evaluate("scrollTo(0, 0)")
    tab.until(f"document.querySelector('.card').dataset.id === '{ids[0]}'")


def test_an_answer_that_comes_too_late(open_tab: Open) -> None:
    tab = open_tab()
    held: list[Any] = []
    tab.page.route("**/api/v1/search?q=first*", lambda route: held.append(route))
    tab.page.fill("#text", "first")
    tab.page.press("#text", "Enter")
    tab.until("document.body.classList.contains('busy')")
    with tab.page.expect_event("requestfailed", lambda request: "first" in request.url):
        tab.search("a cat")
    assert len(held) == 1
    assert "chelsea" in (tab.page.get_attribute(".card", "title") or "")
    assert tab.page.locator("#alert").is_hidden()


def test_errors_are_one_line(open_tab: Open) -> None:
    tab = open_tab("/?q=a+cat&since=never")
    tab.page.wait_for_selector("#alert", state="visible")
    assert "never" in tab.page.inner_text("[role=alert]")
    assert tab.page.locator("#alert >> text=Try again").count() == 0
    assert len(tab.complaints) == 1
    assert "400" in tab.complaints.pop()


@pytest.mark.parametrize("hand", ["waits", "tries"])
def test_a_server_that_is_away_for_a_while(open_tab: Open, hand: str) -> None:
    """All that did not come comes when it is back, photos too."""
    tab = open_tab()
    tab.page.route("**/api/v1/*", lambda route: route.abort())
    tab.page.route("**/api/v1/thumbnails/**", lambda route: route.abort())
    tab.page.fill("#text", "a cat")
    tab.page.press("#text", "Enter")
    tab.page.wait_for_selector("#alert", state="visible")
    assert "does not answer" in tab.page.inner_text("[role=alert]")
    tab.page.unroute("**/api/v1/*")
    if hand == "tries":
        tab.page.click("text=Try again")
    tab.page.wait_for_selector(".card .frame.without")
    assert "not loaded" in tab.page.inner_text(".card >> nth=0")
    tab.page.unroute("**/api/v1/thumbnails/**")
    tab.page.wait_for_selector(".card img.there")
    tab.until("!document.querySelector('.card .frame.without')")
    assert tab.page.locator("#alert").is_hidden()
    assert all("ERR_FAILED" in line for line in tab.complaints)
    tab.complaints.clear()


def test_a_photo_that_is_gone(open_tab: Open, site: Site) -> None:
    hit = site.ask("search", q="a cat", k=200)["hits"][-1]
    photo = Path(hit["path"])
    hidden = photo.with_suffix(".away")
    photo.rename(hidden)
    try:
        tab = open_tab(f"/?q=a+cat&photo={hit['id']}")
        tab.page.wait_for_selector("#viewer-frame.without")
        assert "the photo is gone" in tab.page.inner_text("#viewer-frame")
        assert tab.page.locator("#viewer-frame .boxes").is_hidden()
        for act in ("like", "part", "original"):
            assert tab.page.locator(f"#viewer-{act}").is_hidden()
        tab.page.keyboard.press("b")
        assert tab.page.locator("#viewer-frame .part").is_hidden()
        tab.page.keyboard.press("m")
        assert tab.page.locator("#viewer[open]").count() == 1
        assert all("410" in line for line in tab.complaints)
        tab.complaints.clear()
        hit = site.ask("search", q="a cat", k=1)["hits"][0]
        tab.page.goto(f"{site.home}/?q=a+cat&photo={hit['id']}")
        tab.page.wait_for_selector("#viewer-image.there")
        assert tab.page.locator("#viewer-like").is_visible()
    finally:
        hidden.rename(photo)


@pytest.mark.slow
def test_nearer(open_tab: Open, site: Site) -> None:
    """By a double click, and a box drawn there is where it was drawn."""
    tab = open_tab("/?q=a+cat&ext=png")
    hit = site.ask("search", q="a cat", ext="png", k=1)["hits"][0]
    tab.page.locator(".card").first.click()
    tab.until("document.querySelector('#viewer-image').naturalWidth > 0")
    before = tab.page.locator("#viewer-frame").evaluate(ROOM)
    x, y = before[0] + 0.8 * (before[2] - before[0]), before[1] + 0.3 * (before[3] - before[1])
    tab.page.mouse.dblclick(x, y)
    assert tab.page.get_attribute("#viewer-near", "aria-pressed") == "true"
    left, top, right, _ = tab.page.locator("#viewer-frame").evaluate(ROOM)
    assert right - left == pytest.approx(2 * (before[2] - before[0]), rel=0.01)
    assert left + 0.8 * (right - left) == pytest.approx(x, abs=2), "what was pointed at stays there"
    stage = tab.page.locator("#viewer-stage").evaluate(ROOM)
    assert right > stage[2]
    mouse = tab.page.mouse
    mouse.move(x - 100, y - 50)
    mouse.down()
    mouse.move(x, y, steps=3)
    mouse.up()
    scale = hit["width_px"] / (right - left)
    wanted = [(x - 100 - left) * scale, (y - 50 - top) * scale, (x - left) * scale, (y - top) * scale]
    drawn = read_numbers(tab.page.get_attribute("#viewer-frame .part", "aria-label"))
    assert drawn == pytest.approx(wanted, abs=1.5)
    tools = tab.page.locator("#viewer-frame .tools").evaluate(ROOM)
    assert stage[0] <= tools[0] < tools[2] <= stage[2]
    assert stage[1] <= tools[1] < tools[3] <= stage[3]
    tab.page.keyboard.press("Escape")
    tab.page.keyboard.press("z")
    assert tab.page.locator("#viewer-frame").evaluate(ROOM) == pytest.approx(before, abs=0.6)


@pytest.mark.slow
def test_nearer_and_on_by_a_finger(open_tab: Open) -> None:
    tab = open_tab("/?q=a+cat", viewport={"width": 400, "height": 800}, is_mobile=True, has_touch=True)
    tab.page.locator(".card").first.tap()
    tab.page.wait_for_selector("#viewer-image.there")
    first = tab.address["photo"]
    move_finger(tab, "#viewer-stage", (0.8, 0.5), (0.2, 0.5))
    tab.until(f"!location.search.includes('photo={first[0]}')")
    move_finger(tab, "#viewer-stage", (0.2, 0.5), (0.8, 0.55))
    tab.until(f"location.search.endsWith('photo={first[0]}')")
    move_finger(tab, "#viewer-stage", (0.2, 0.5), (0.3, 0.9))  # that is no swipe
    assert tab.address["photo"] == first
    place = tab.page.locator("#viewer-frame").evaluate(ROOM)
    for _ in range(2):
        tab.page.touchscreen.tap((place[0] + place[2]) / 2, (place[1] + place[3]) / 2)
    tab.until("document.querySelector('#viewer-stage').classList.contains('near')")
    move_finger(tab, "#viewer-stage", (0.8, 0.5), (0.2, 0.5))  # scrolls now
    tab.until("document.querySelector('#viewer-stage').scrollLeft > 0")
    assert tab.address["photo"] == first


@pytest.mark.slow
def test_a_large_photo_has_all_its_pixels_where_it_is_looked_at_nearer(open_tab: Open, site: Site) -> None:
    hit = site.ask("search", q="a cat", k=1)["hits"][0]
    large = json.dumps({**hit, "width_px": 4000, "height_px": 3000})
    tab = open_tab(None)
    tab.page.route("**/api/v1/regions/**", lambda route: route.fulfill(body=large, content_type="application/json"))
    asked: list[str] = []
    tab.page.on("request", lambda request: "/images/" in request.url and asked.append(request.url))
    tab.go(f"/?q=a+cat&ext=jpg&photo={hit['id']}")  # it is no hit of this search: its regions are asked for
    tab.page.wait_for_selector("#viewer-image.there")
    tab.page.click("#viewer-near")
    tab.until("document.querySelector('#viewer-image').src.endsWith('4096')")
    assert [url.partition("?")[2] for url in asked] == ["size=1600", "size=4096"]
    assert tab.page.evaluate("document.querySelector('#viewer-frame').offsetWidth") == 4000


def test_date_and_folder(open_tab: Open, site: Site) -> None:
    tab = open_tab("/?q=a+cat", timezone_id="Asia/Tokyo")
    hit = site.ask("search", q="a cat", k=1)["hits"][0]
    tab.page.locator(".card").first.click()
    tab.page.wait_for_selector("#viewer[open]")
    shown = "new Date(%s).toLocaleString(undefined, { dateStyle: 'medium', timeStyle: 'short' })"
    wanted = tab.page.evaluate(shown % json.dumps(hit["date"]))  # a clock without a zone: the same everywhere
    assert wanted in tab.page.inner_text("#viewer-facts")
    assert tab.page.inner_text("#viewer-path") == hit["path"]
    tab.page.click("#viewer-folder")
    tab.page.wait_for_selector("#viewer", state="hidden")
    tab.until("location.search.includes('under=')")
    assert tab.asked["under"] == [str(site.photos)]
    assert tab.asked["q"] == ["a cat"]
    tab.page.click("#scope-open")
    assert tab.page.eval_on_selector("[name=under]", "one => one.selectedOptions[0].textContent").startswith("\u2068")
    assert tab.page.inner_text("#scope-count") == "1"
    tab.page.go_back()
    tab.page.wait_for_selector("#viewer[open]")


def test_a_server_that_wants_its_token(browser: Any, site: Site, open_tab: Open) -> None:
    from served import serving_index

    with serving_index(site.photos.parent / "index", token="a secret & more") as other:
        tab = Tab(browser.new_page(), Site(other.url, site.photos))
        tab.page.goto(f"{other.url}/?q=a+cat")
        tab.page.wait_for_selector("#lock[open]")
        tab.page.keyboard.press("Escape")
        assert tab.page.evaluate("document.activeElement.id") == "token"
        tab.page.keyboard.type("a guess")
        tab.page.keyboard.press("Enter")
        tab.until("document.querySelector('#lock-wrong').textContent === 'Wrong token.'")
        assert tab.page.locator(".card").count() == 0
        tab.page.fill("#token", "a secret & more")
        tab.page.keyboard.press("Enter")
        tab.page.wait_for_selector(".card img.there")
        assert tab.page.locator("#lock[open]").count() == 0
        assert tab.page.url == f"{other.url}/?q=a+cat", "what was asked for stays, the token is not in the address"
        assert all("401" in line for line in tab.complaints)
        tab.page.context.close()


def test_an_empty_index_fills(browser: Any, site: Site, tmp_path: Path) -> None:
    from served import serving_index

    Engine.open(tmp_path / "index", model="flair-tiny", device="cpu").close()
    with serving_index(tmp_path / "index") as empty:
        tab = Tab(browser.new_page(), Site(empty.url, site.photos))
        tab.page.goto(f"{empty.url}/?q=a+cat")
        tab.page.wait_for_selector("#nothing", state="visible")
        assert "flairsearch index FOLDER --index index" in tab.page.inner_text("#nothing")
        with Engine.open(tmp_path / "index", device="cpu") as engine:
            engine.add(site.photos)
        tab.page.wait_for_selector(".card img.there")
        assert tab.page.locator("#welcome").is_hidden()
        assert f"{PAINTED + 8} photos searched" in tab.page.inner_text("#tally")
        assert tab.complaints == []
        tab.page.context.close()


@pytest.mark.slow
def test_hostile_file_names_are_text(open_tab: Open, site: Site) -> None:
    hit = next(one for one in site.ask("search", q="a cat", k=200)["hits"] if one["path"].endswith(HOSTILE))
    tab = open_tab(f"/?q=a+cat&photo={hit['id']}")
    tab.page.wait_for_selector("#viewer[open]")
    assert tab.page.inner_text("#viewer-name") == HOSTILE
    tab.until("document.querySelector('#viewer-image').naturalWidth > 0")
    tab.page.keyboard.press("Escape")
    tab.page.evaluate("scrollTo(0, document.body.scrollHeight)")
    found = f".card[data-id='{hit['id']}']"
    for _ in range(60):
        tab.page.mouse.wheel(0, 500)
        tab.page.wait_for_timeout(40)
        if tab.page.locator(found).count():
            break
    assert HOSTILE in tab.page.inner_text(found)
    assert tab.page.locator("img[src=x]").count() == 0
    assert "owned" not in tab.page.title()


CONTRAST = """() => {
    const paper = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const rgb = (colours) => {
        paper.clearRect(0, 0, 1, 1);
        for (const colour of colours) { paper.fillStyle = colour; paper.fillRect(0, 0, 1, 1); }
        return [...paper.getImageData(0, 0, 1, 1).data];
    };
    const light = (parts) => parts.slice(0, 3).map((p) => p / 255)
        .map((p) => (p <= .04045 ? p / 12.92 : ((p + .055) / 1.055) ** 2.4))
        .reduce((sum, p, i) => sum + p * [.2126, .7152, .0722][i], 0);
    const found = {};
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
        const element = walk.currentNode.parentElement;
        if (!walk.currentNode.data.trim() || !element.checkVisibility() || element.closest(":disabled, svg")) continue;
        const grounds = [];
        for (let up = element; up; up = up.parentElement) grounds.unshift(getComputedStyle(up).backgroundColor);
        const [one, two] = [light(rgb(grounds)), light(rgb([...grounds, getComputedStyle(element).color]))];
        const ratio = (Math.max(one, two) + .05) / (Math.min(one, two) + .05);
        if (ratio < 4.5) found[element.className || element.tagName + walk.currentNode.data.slice(0, 20)] = ratio;
    }
    return found;
}"""


@pytest.mark.slow
def test_light_and_dark(open_tab: Open) -> None:
    ground = "getComputedStyle(document.body).backgroundColor.match(/[\\d.]+/g).slice(0, 3).map(Number)"
    tab = open_tab("/?q=a+cat&q=red&not=grass&max_false_alarm=50%25", color_scheme="dark", reduced_motion="reduce")
    tab.page.wait_for_selector(".card")
    tab.page.click("#scope-open")
    assert max(tab.page.evaluate(ground)) < 40
    assert tab.page.evaluate(CONTRAST) == {}
    tab.page.click("#theme")  # from the system's to light, whatever the system says
    assert min(tab.page.evaluate(ground)) > 230
    tab.page.wait_for_timeout(300)
    assert tab.page.evaluate(CONTRAST) == {}
    tab.page.reload()
    assert min(tab.page.evaluate(ground)) > 230
    tab.page.click("#theme")
    assert max(tab.page.evaluate(ground)) < 40


SMALL = """() => [...document.querySelectorAll("button, select, input, a")]
    .filter((one) => one.checkVisibility() && !one.closest("#grid") && one.type !== "checkbox" && one.type !== "range")
    .map((one) => [one.id || one.className || one.textContent, one.getBoundingClientRect()])
    .filter(([, room]) => room.width && (room.height < 39.5 || room.width < 39.5)).map(([name]) => name)"""


@pytest.mark.slow
def test_on_a_phone(open_tab: Open) -> None:
    phone = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}
    wide = "document.documentElement.scrollWidth <= 360 && document.body.scrollWidth <= 360"
    tab = open_tab("/", **phone)
    assert tab.page.evaluate(wide)
    assert tab.page.evaluate(SMALL) == []
    tab.go("/?q=a+photo+of+a+cat+that+looks+at+somebody&q=red&not=something+that+has+a+long+name&max_false_alarm=50%25")
    tab.page.wait_for_selector(".card")
    assert tab.page.evaluate(wide)
    assert tab.page.evaluate(SMALL) == []
    rights = tab.page.eval_on_selector_all(".card", "all => all.map(one => one.getBoundingClientRect().right)")
    assert max(rights) <= 360
    tab.page.tap("#scope-open")
    panel = tab.page.locator("#scope").bounding_box()
    assert panel["x"] == 0
    assert panel["width"] == 360
    assert panel["y"] + panel["height"] == pytest.approx(740, abs=1)
    assert tab.page.evaluate(SMALL) == []
    tab.page.locator("#scope-close").tap()
    tab.page.locator(".card").first.tap()
    tab.page.wait_for_selector("#viewer[open]")
    assert tab.page.evaluate(wide)
    assert tab.page.evaluate(SMALL) == []
    tab.page.tap("#viewer-part")
    tools = tab.page.locator("#viewer-frame .tools").bounding_box()
    assert tools["x"] >= 0
    assert tools["x"] + tools["width"] <= 360
    tab.page.tap("#viewer-close")
    tab.page.wait_for_selector("#viewer", state="hidden")
