"""The page in a real browser: what is asked for, and the gallery."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
from PIL import Image

from tests.support.browsed import (
    DROP,
    HOSTILE,
    PHOTOS,
    ROOM,
    Open,
    Site,
    check_boxes,
)

pytestmark = pytest.mark.browser
STATIC = Path(__file__).parents[2] / "flairsearch" / "serve" / "static"


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


def test_typing_shows_photos_with_their_places(open_tab: Open, site: Site) -> None:
    tab = open_tab()
    assert tab.page.evaluate("document.activeElement.id") == "text"
    assert f"{PHOTOS} photos" in tab.page.inner_text("#photos")
    tab.search("a cat with green eyes")
    answer = site.ask("search", q="a cat with green eyes", k=48)
    hits = answer["hits"]
    assert "chelsea" in hits[0]["path"]
    assert tab.ids()[:5] == [hit["id"] for hit in hits[:5]]
    check_boxes(tab, hits[:5])
    first = tab.page.locator(".card").first
    assert f"{hits[0]['score']:.3f}" in first.inner_text()
    assert "chelsea.png" in first.inner_text()
    assert tab.address == {"q": ["a cat with green eyes"]}
    assert f"{PHOTOS} photos searched · 48 shown" in tab.page.inner_text("#counts")
    assert "48 photos" in tab.page.inner_text("#announcement")
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


def test_phrases_and_exclusions(open_tab: Open, site: Site) -> None:
    tab = open_tab()
    tab.page.fill("#text", "a cat")
    tab.page.press("#text", "Shift+Enter")
    tab.search('an orange suit -flag -"a dark sky"')
    assert tab.asked["q"] == ["a cat", "an orange suit"]
    assert tab.asked["exclude"] == ["flag", "a dark sky"]
    assert tab.page.locator(".chip").all_inner_texts() == ["a cat", "not\nflag", "not\na dark sky"]
    assert tab.page.input_value("#text") == "an orange suit"
    hits = site.ask("search", q=["a cat", "an orange suit"], exclude=["flag", "a dark sky"], k=48)["hits"]
    check_boxes(tab, hits[:4])
    card = tab.page.locator(".card").first
    colours = card.locator(".line").evaluate_all("all => all.map(one => one.getAttribute('stroke'))")
    assert sorted(colours) == ["#56b4e9", "#e69f00"]
    assert f"weakest: {hits[0]['weakest']}" in card.inner_text()
    with tab.page.expect_response(lambda one: "/api/v1/search" in one.url):
        tab.page.click("[aria-label='Remove exclusion flag']")
    tab.page.focus("[aria-label='Change phrase a cat']")
    with tab.page.expect_response(lambda one: "/api/v1/search" in one.url):
        tab.page.keyboard.press("Delete")
    assert tab.asked["q"] == ["an orange suit"]
    assert tab.asked["exclude"] == ["a dark sky"]
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
    tab.page.wait_for_selector(".card .frame.show-heat")
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
    tab.page.wait_for_selector(".card .frame.show-heat", state="detached")


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
    tab.page.wait_for_selector(".card .frame.show-heat")
    tab.page.set_input_files("#file", str(site.photos / "chelsea.png"))
    tab.until("document.querySelector('.card')?.title.includes('chelsea')")
    tab.page.click(".chip .edit")
    tab.page.wait_for_selector("#image-query-frame", state="visible")
    left, top, right, bottom = tab.page.locator("#image-query-frame").evaluate(ROOM)
    tab.page.mouse.move(left + 2, top + 2)
    tab.page.mouse.down()
    tab.page.mouse.move((left + right) / 2, (top + bottom) / 2, steps=3)
    tab.page.mouse.up()
    with tab.page.expect_response(lambda one: "/api/v1/search" in one.url) as caught:
        tab.page.click("#image-query-use")
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
    assert re.search("“notes.txt”.? is not a picture", tab.page.inner_text("#alert"))
    assert len(tab.searches) == 1
    tab.page.evaluate(DROP, ["broken.png", [65, 66]])
    tab.until("document.querySelector('#alert').textContent.includes('not a picture in a known format')")
    assert tab.page.locator("#alert button").all_inner_texts() == ["Dismiss"]
    tab.complaints.clear()
    tab.page.click("#alert >> text=Dismiss")
    tab.page.click("[aria-label='Remove the picture']")
    tab.page.wait_for_selector("#welcome", state="visible")
    assert tab.page.evaluate("document.activeElement.id") == "text"


def test_scrolling_reaches_the_last_photo(open_tab: Open, site: Site) -> None:
    tab = open_tab("/?q=a+cat")
    tab.page.wait_for_selector(".card")
    heights, most = [], 0
    for _ in range(60):
        tab.page.mouse.wheel(0, 700)
        tab.page.wait_for_timeout(60)
        most = max(most, len(tab.ids()))
        heights.append(tab.page.evaluate("scrollY"))
        if "End of the results" in tab.page.inner_text("#end") and len(heights) > 2 and heights[-1] == heights[-3]:
            break
    assert f"End of the results: {PHOTOS} photos." in tab.page.inner_text("#end")
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
    tab.page.wait_for_selector(".card .frame.show-heat")  # heat for the keyboard too
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


def test_filters_are_in_the_address(open_tab: Open, site: Site) -> None:
    tab = open_tab("/?q=a+cat")
    tab.page.click("#filters-open")
    tab.page.click(".positions .left")
    tab.page.click(".positions .right")  # not at both
    tab.page.click(".file-types >> text=PNG")
    with tab.page.expect_response(lambda one: "larger_than" in one.url):
        tab.page.select_option("[name=larger_than]", "500kB")
    assert tab.address["position"] == ["right"]
    assert tab.asked["extension"] == ["png"]
    assert tab.page.inner_text("#filters-count") == "3"
    again = open_tab(tab.page.url.removeprefix(site.home))
    again.page.wait_for_selector("#counts:not(:empty)")
    assert again.asked == tab.asked
    assert again.page.locator("[name=position]:checked").evaluate_all("all => all.map(one => one.value)") == ["right"]
    with tab.page.expect_response(lambda one: "/api/v1/search" in one.url):
        tab.page.click("#filters-clear")
    assert tab.address == {"q": ["a cat"]}


def test_filters_that_no_control_can_show_stay(open_tab: Open) -> None:
    tab = open_tab("/?q=a+cat&since=2001&min_area=0.055&extension=png,xyz")
    tab.page.wait_for_selector("#counts:not(:empty)")
    tab.page.click("#filters-open")
    assert tab.page.inner_text("#area-value") == "5.5 % of the photo"
    assert tab.page.inner_text("#filters-count") == "3"
    tab.page.click(".positions .left")
    tab.page.click(".file-types >> text=JPEG")
    tab.until("location.search.includes('jpg')")
    kept = {name: tab.address[name] for name in ("since", "min_area", "position")}
    assert kept == {"since": ["2001"], "min_area": ["0.055"], "position": ["left"]}
    assert {kind for given in tab.address["extension"] for kind in given.split(",")} >= {"png", "xyz", "jpg"}


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


def test_light_and_dark(open_tab: Open) -> None:
    ground = "getComputedStyle(document.body).backgroundColor.match(/[\\d.]+/g).slice(0, 3).map(Number)"
    tab = open_tab("/?q=a+cat&q=red&exclude=grass", color_scheme="dark", reduced_motion="reduce")
    tab.page.wait_for_selector(".card")
    tab.page.click("#filters-open")
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


def test_on_a_phone(open_tab: Open) -> None:
    phone = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}
    wide = "document.documentElement.scrollWidth <= 360 && document.body.scrollWidth <= 360"
    tab = open_tab("/", **phone)
    assert tab.page.evaluate(wide)
    assert tab.page.evaluate(SMALL) == []
    tab.go("/?q=a+photo+of+a+cat+that+looks+at+somebody&q=red&exclude=something+that+has+a+long+name")
    tab.page.wait_for_selector(".card")
    assert tab.page.evaluate(wide)
    assert tab.page.evaluate(SMALL) == []
    rights = tab.page.eval_on_selector_all(".card", "all => all.map(one => one.getBoundingClientRect().right)")
    assert max(rights) <= 360
    tab.page.tap("#filters-open")
    panel = tab.page.locator("#filter-panel").bounding_box()
    assert panel["x"] == 0
    assert panel["width"] == 360
    assert panel["y"] + panel["height"] == pytest.approx(740, abs=1)
    assert tab.page.evaluate(SMALL) == []
    tab.page.locator("#filters-close").tap()
    tab.page.locator(".card").first.tap()
    tab.page.wait_for_selector("#viewer[open]")
    assert tab.page.evaluate(wide)
    assert tab.page.evaluate(SMALL) == []
    tab.page.tap("#viewer-select")
    tools = tab.page.locator("#viewer-frame .selection-buttons").bounding_box()
    assert tools["x"] >= 0
    assert tools["x"] + tools["width"] <= 360
    tab.page.tap("#viewer-close")
    tab.page.wait_for_selector("#viewer", state="hidden")


def test_a_chip_that_is_changed_keeps_colours_and_exclusions_right(open_tab: Open) -> None:
    tab = open_tab("/?q=a+cat&q=a+red+suit")
    tab.page.wait_for_selector(".card")
    tab.page.fill("#text", "a red suit -flag")
    tab.until("location.search.includes('exclude=flag')")
    tab.page.click("[aria-label='Change phrase a cat']")
    tab.until("location.search.startsWith('?q=a+red+suit&q=a+cat')")
    assert tab.address["exclude"] == ["flag"]
    assert tab.page.input_value("#text") == "a cat"
    assert tab.page.locator(".chip").all_inner_texts() == ["a red suit", "not\nflag"]


def test_a_lone_minus_is_no_phrase(open_tab: Open) -> None:
    tab = open_tab("/?q=a+cat")
    tab.page.wait_for_selector(".card")
    tab.page.click("#add-exclusion")
    tab.page.keyboard.press("Enter")
    assert tab.address == {"q": ["a cat"]}


def test_more_phrases_than_a_search_may_have(open_tab: Open) -> None:
    tab = open_tab("/?" + urlencode({"q": [f"thing {i}" for i in range(9)]}, doseq=True))
    tab.until("document.querySelector('#note').textContent.includes('8 phrases')")
    assert tab.searches == []
    tab.page.click("[aria-label='Remove phrase thing 0']")
    tab.page.wait_for_selector(".card")


def test_what_is_read_stays_in_sight(open_tab: Open) -> None:
    """When the window changes; and the photo with the focus is not under the head of the page."""
    tab = open_tab("/?q=a+cat")
    tab.page.locator(".card").nth(2).click()
    tab.page.wait_for_selector("#viewer[open]")
    tab.page.keyboard.press("Escape")
    tab.page.wait_for_selector("#viewer", state="hidden")
    tab.page.evaluate("scrollTo(0, 1500)")
    tab.page.set_viewport_size({"width": 1000, "height": 800})
    tab.page.wait_for_timeout(300)
    assert tab.page.evaluate("scrollY") > 800
    tab.page.evaluate("scrollTo(0, 0)")
    tab.page.locator(".card").first.focus()
    for key in ["ArrowDown"] * 5 + ["ArrowUp"] * 4:
        tab.page.keyboard.press(key)
    head = tab.page.locator("header").evaluate(ROOM)[3]
    assert tab.page.evaluate("document.activeElement.getBoundingClientRect().top") >= head


def test_a_date_is_searched_for_when_it_is_typed(open_tab: Open) -> None:
    tab = open_tab("/?q=a+cat")
    tab.page.wait_for_selector(".card")
    many, entries = len(tab.searches), tab.page.evaluate("history.length")
    tab.page.click("#filters-open")
    tab.page.focus("[name=since]")
    tab.page.keyboard.type("05032024")
    tab.until("location.search.includes('since=2024-05-03')")
    assert len(tab.searches) == many + 1
    assert tab.page.evaluate("history.length") == entries + 1
    tab.page.click("#filters-clear")
    tab.page.keyboard.press("Escape")
    assert tab.page.locator("#filter-panel").is_hidden()
