"""The page in a real browser: searches, filters and the gallery."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
from PIL import Image

from tests.support.browsed import (
    BOUNDING_BOX,
    DROP_FILE,
    HOSTILE,
    PHOTO_COUNT,
    OpenTab,
    Site,
    check_boxes,
    is_search,
)

pytestmark = pytest.mark.browser
STATIC = Path(__file__).parents[2] / "flairsearch" / "serve" / "static"


def test_modules_are_small_and_build_no_markup() -> None:
    """The page turns data into text, never into markup, and obeys its own content security policy."""
    for path in STATIC.glob("*.js"):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) < 300, path.name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)
        assert "".join(re.findall(r"https?://[^\"'`\s]+", text)) == "http://www.w3.org/2000/svg" or "://" not in text
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"\son\w+=|\sstyle=|<style|<script(?![^>]*\ssrc=)|https?://", page)
    named = re.findall(r'(?:src|href)="/static/([^"]+)"', page)
    assert named
    assert all((STATIC / name).is_file() for name in named)


def test_a_search_shows_photos_with_their_regions(open_tab: OpenTab, site: Site) -> None:
    tab = open_tab()
    assert tab.page.evaluate("document.activeElement.id") == "text"
    assert f"{PHOTO_COUNT} photos" in tab.page.inner_text("#photos")
    tab.search("a cat with green eyes")
    answer = site.request("search", q="a cat with green eyes", k=48)
    hits = answer["hits"]
    assert "chelsea" in hits[0]["path"]
    assert tab.shown_ids()[:5] == [hit["id"] for hit in hits[:5]]
    check_boxes(tab, hits[:5])
    first = tab.page.locator(".card").first
    assert f"{hits[0]['score']:.3f}" in first.inner_text()
    assert "chelsea.png" in first.inner_text()
    assert tab.url_parameters == {"q": ["a cat with green eyes"]}
    assert f"{PHOTO_COUNT} photos searched · 48 shown" in tab.page.inner_text("#counts")
    assert "48 photos" in tab.page.inner_text("#announcement")
    assert tab.page.locator("#note").is_hidden()
    tab.search("a zyxgfl cat")
    tab.wait_until("document.querySelector('#note').textContent.includes('not trained on “zyxgfl”')")


def test_typing_starts_a_search(open_tab: OpenTab) -> None:
    tab = open_tab()
    tab.page.keyboard.type("a cat")
    tab.page.wait_for_selector(".card")
    assert tab.url_parameters == {"q": ["a cat"]}
    tab.page.keyboard.type(" asleep")
    tab.wait_until("location.search.includes('asleep')")
    tab.page.go_back()  # All that was typed is one history entry.
    tab.page.wait_for_selector("#welcome", state="visible")


def test_phrases_and_exclusions(open_tab: OpenTab, site: Site) -> None:
    tab = open_tab()
    tab.page.fill("#text", "a cat")
    tab.page.press("#text", "Shift+Enter")
    tab.search('an orange suit -flag -"a dark sky"')
    assert tab.search_parameters["q"] == ["a cat", "an orange suit"]
    assert tab.search_parameters["exclude"] == ["flag", "a dark sky"]
    assert tab.page.locator(".chip").all_inner_texts() == ["a cat", "not\nflag", "not\na dark sky"]
    assert tab.page.input_value("#text") == "an orange suit"
    hits = site.request("search", q=["a cat", "an orange suit"], exclude=["flag", "a dark sky"], k=48)["hits"]
    check_boxes(tab, hits[:4])
    card = tab.page.locator(".card").first
    colours = card.locator(".line").evaluate_all("cards => cards.map(card => card.getAttribute('stroke'))")
    assert sorted(colours) == ["#56b4e9", "#e69f00"]
    assert f"weakest: {hits[0]['weakest']}" in card.inner_text()
    with tab.page.expect_response(is_search):
        tab.page.click("[aria-label='Remove exclusion flag']")
    tab.page.focus("[aria-label='Change phrase a cat']")
    with tab.page.expect_response(is_search):
        tab.page.keyboard.press("Delete")
    assert tab.search_parameters["q"] == ["an orange suit"]
    assert tab.search_parameters["exclude"] == ["a dark sky"]
    assert tab.page.evaluate("document.activeElement.id") == "text"


def test_exclusions_alone_start_no_search(open_tab: OpenTab) -> None:
    tab = open_tab()
    tab.page.fill("#text", "-leash")
    tab.page.press("#text", "Enter")
    tab.wait_until("!document.querySelector('#note').hidden")
    assert tab.search_requests == []
    assert "Say what to look for" in tab.page.inner_text("#note")


def test_the_heat_map_shows_while_the_pointer_is_on_a_card(open_tab: OpenTab, site: Site) -> None:
    tab = open_tab("/?q=a+cat")
    card = tab.page.locator(".card").first
    with tab.page.expect_response(lambda response: "/api/v1/regions/" in response.url):
        card.hover()
    tab.page.wait_for_selector(".card .frame.show-heat")
    hit = site.request(f"regions/{tab.shown_ids()[0]}", q="a cat")
    (phrase,) = hit["phrases"]
    heat = np.array(phrase["heat"])
    raised = np.maximum(heat - heat.mean(), 0)
    # The opacity of the canvas in the middle of each cell.
    wanted = 255 * 0.75 * (raised / raised.max()) ** 0.75
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
    assert np.abs(np.array(drawn) - wanted).max() < 25  # The middle of a cell lies between two pixels.
    tab.page.mouse.move(2, 2)
    tab.page.wait_for_selector(".card .frame.show-heat", state="detached")


def test_a_picture_is_dropped_chosen_and_cropped(open_tab: OpenTab, site: Site) -> None:
    tab = open_tab()
    content = (site.photos / "coffee.png").read_bytes()
    with tab.page.expect_response(is_search) as caught:
        assert tab.page.evaluate(DROP_FILE, ["<b>coffee</b>.png", list(content)])
    assert caught.value.request.method == "POST"
    tab.page.wait_for_selector(".card")
    assert tab.shown_ids()[:8] == [hit["id"] for hit in site.request("search", content, k=48)["hits"][:8]]
    assert "coffee.png" in (tab.page.get_attribute(".card", "title") or "")
    assert "<b>coffee</b>.png" in tab.page.inner_text(".chip")
    tab.page.wait_for_selector(".chip canvas")
    tab.page.locator(".card").first.hover()
    tab.page.wait_for_selector(".card .frame.show-heat")
    tab.page.set_input_files("#file", str(site.photos / "chelsea.png"))
    tab.wait_until("document.querySelector('.card')?.title.includes('chelsea')")
    tab.page.click(".chip .edit")
    tab.page.wait_for_selector("#image-query-frame", state="visible")
    left, top, right, bottom = tab.page.locator("#image-query-frame").evaluate(BOUNDING_BOX)
    tab.page.mouse.move(left + 2, top + 2)
    tab.page.mouse.down()
    tab.page.mouse.move((left + right) / 2, (top + bottom) / 2, steps=3)
    tab.page.mouse.up()
    with tab.page.expect_response(is_search) as caught:
        tab.page.click("#image-query-use")
    box = [int(part) for part in tab.search_parameters["box"][0].split(",")]
    with Image.open(site.photos / "chelsea.png") as picture:
        wide, high = picture.size
    assert box[2:] == pytest.approx([wide / 2, high / 2], abs=2)
    assert caught.value.request.method == "POST"
    tab.page.reload()  # The URL does not contain the file.
    tab.page.wait_for_selector("#alert", state="visible")
    assert "drop it here again" in tab.page.inner_text("#alert")


PASTE_FILE = """(bytes) => {
    const clipboardData = new DataTransfer();
    clipboardData.items.add(new File([new Uint8Array(bytes)], "image.png", { type: "image/png" }));
    const event = new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true });
    document.activeElement.dispatchEvent(event);
}"""


def test_a_picture_is_pasted_and_other_files_are_refused(open_tab: OpenTab, site: Site) -> None:
    tab = open_tab()
    tab.page.evaluate(PASTE_FILE, list((site.photos / "chelsea.png").read_bytes()))
    tab.wait_until("document.querySelector('.card')?.title.includes('chelsea')")
    tab.page.evaluate(DROP_FILE.replace("image/png", "text/plain"), ["notes.txt", [65]])
    tab.page.wait_for_selector("#alert", state="visible")
    assert re.search("“notes.txt”.? is not a picture", tab.page.inner_text("#alert"))
    assert len(tab.search_requests) == 1
    tab.page.evaluate(DROP_FILE, ["broken.png", [65, 66]])
    tab.wait_until("document.querySelector('#alert').textContent.includes('not a picture in a known format')")
    assert tab.page.locator("#alert button").all_inner_texts() == ["Dismiss"]
    tab.console_errors.clear()
    tab.page.click("#alert >> text=Dismiss")
    tab.page.click("[aria-label='Remove the picture']")
    tab.page.wait_for_selector("#welcome", state="visible")
    assert tab.page.evaluate("document.activeElement.id") == "text"


def test_scrolling_reaches_the_last_photo(open_tab: OpenTab, site: Site) -> None:
    tab = open_tab("/?q=a+cat")
    tab.page.wait_for_selector(".card")
    heights, max_cards = [], 0
    for _ in range(60):
        tab.page.mouse.wheel(0, 700)
        tab.page.wait_for_timeout(60)
        max_cards = max(max_cards, len(tab.shown_ids()))
        heights.append(tab.page.evaluate("scrollY"))
        if "End of the results" in tab.page.inner_text("#end") and len(heights) > 2 and heights[-1] == heights[-3]:
            break
    assert f"End of the results: {PHOTO_COUNT} photos." in tab.page.inner_text("#end")
    wanted = [hit["id"] for hit in site.request("search", q="a cat", k=200)["hits"]]
    assert tab.shown_ids()[-1] == wanted[-1]
    assert len(tab.search_requests) == 3
    assert max_cards < 90, "photos far from the screen have no card"
    tab.page.locator(".card").last.focus()
    tab.page.keyboard.press("Home")
    assert tab.page.evaluate("document.activeElement.dataset.id") == str(wanted[0])
    tab.page.keyboard.press("End")
    assert tab.page.evaluate("document.activeElement.dataset.id") == str(wanted[-1])


def test_the_page_works_with_the_keyboard_alone(open_tab: OpenTab, site: Site) -> None:
    tab = open_tab()
    tab.page.keyboard.type("a cat")
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_selector(".card")
    ids = [hit["id"] for hit in site.request("search", q="a cat", k=48)["hits"]]
    for _ in range(12):
        tab.page.keyboard.press("Tab")
        if tab.page.evaluate("document.activeElement.classList.contains('card')"):
            break
    focused = "document.activeElement.dataset.id"
    assert tab.page.evaluate(focused) == str(ids[0])
    tab.page.wait_for_selector(".card .frame.show-heat")  # A focused card shows its heat map, too.
    tab.page.keyboard.press("ArrowRight")
    assert tab.page.evaluate(focused) == str(ids[1])
    tab.page.keyboard.press("ArrowDown")
    below = tab.page.evaluate(
        BOUNDING_BOX.replace("element =>", "() => { const element = document.activeElement;") + "}"
    )
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


def test_filters_are_in_the_url(open_tab: OpenTab, site: Site) -> None:
    tab = open_tab("/?q=a+cat")
    tab.page.click("#filters-open")
    tab.page.click(".positions .left")
    tab.page.click(".positions .right")  # A match cannot be at both sides, so this unchecks "left".
    tab.page.click(".file-types >> text=PNG")
    with tab.page.expect_response(lambda response: "larger_than" in response.url):
        tab.page.select_option("[name=larger_than]", "500kB")
    assert tab.url_parameters["position"] == ["right"]
    assert tab.search_parameters["extension"] == ["png"]
    assert tab.page.inner_text("#filters-count") == "3"
    again = open_tab(tab.page.url.removeprefix(site.home))
    again.page.wait_for_selector("#counts:not(:empty)")
    assert again.search_parameters == tab.search_parameters
    assert again.page.locator("[name=position]:checked").evaluate_all("cards => cards.map(card => card.value)") == [
        "right"
    ]
    with tab.page.expect_response(is_search):
        tab.page.click("#filters-clear")
    assert tab.url_parameters == {"q": ["a cat"]}


def test_filters_without_a_control_are_kept(open_tab: OpenTab) -> None:
    tab = open_tab("/?q=a+cat&since=2001&min_area=0.055&extension=png,xyz")
    tab.page.wait_for_selector("#counts:not(:empty)")
    tab.page.click("#filters-open")
    assert tab.page.inner_text("#area-value") == "5.5 % of the photo"
    assert tab.page.inner_text("#filters-count") == "3"
    tab.page.click(".positions .left")
    tab.page.click(".file-types >> text=JPEG")
    tab.wait_until("location.search.includes('jpg')")
    kept = {name: tab.url_parameters[name] for name in ("since", "min_area", "position")}
    assert kept == {"since": ["2001"], "min_area": ["0.055"], "position": ["left"]}
    assert {kind for given in tab.url_parameters["extension"] for kind in given.split(",")} >= {"png", "xyz", "jpg"}


def test_going_back_shows_the_old_results_at_once(open_tab: OpenTab) -> None:
    tab = open_tab("/?q=a+cat")
    tab.page.wait_for_selector(".card")
    ids = tab.shown_ids()
    tab.page.mouse.wheel(0, 600)
    tab.wait_until("scrollY > 500")
    where = tab.page.evaluate("scrollY")
    tab.search("a rocket")
    tab.wait_until("scrollY === 0")
    request_count = len(tab.search_requests)
    tab.page.go_back()
    tab.wait_until("document.querySelector('#text').value === 'a cat'")
    tab.wait_until(f"Math.abs(scrollY - {where}) < 2")
    assert len(tab.search_requests) == request_count
    tab.page.evaluate("scrollTo(0, 0)")
    tab.wait_until(f"document.querySelector('.card').dataset.id === '{ids[0]}'")


def test_hostile_file_names_are_text(open_tab: OpenTab, site: Site) -> None:
    hits = site.request("search", q="a cat", k=200)["hits"]
    hit = next(hit for hit in hits if hit["path"].endswith(HOSTILE))
    tab = open_tab(f"/?q=a+cat&photo={hit['id']}")
    tab.page.wait_for_selector("#viewer[open]")
    assert tab.page.inner_text("#viewer-name") == HOSTILE
    tab.wait_until("document.querySelector('#viewer-image').naturalWidth > 0")
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


LOW_CONTRAST = """() => {
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
        const [ground, ink] = [light(rgb(grounds)), light(rgb([...grounds, getComputedStyle(element).color]))];
        const ratio = (Math.max(ground, ink) + .05) / (Math.min(ground, ink) + .05);
        if (ratio < 4.5) found[element.className || element.tagName + walk.currentNode.data.slice(0, 20)] = ratio;
    }
    return found;
}"""


def test_light_and_dark_themes_have_contrast(open_tab: OpenTab) -> None:
    ground = "getComputedStyle(document.body).backgroundColor.match(/[\\d.]+/g).slice(0, 3).map(Number)"
    tab = open_tab("/?q=a+cat&q=red&exclude=grass", color_scheme="dark", reduced_motion="reduce")
    tab.page.wait_for_selector(".card")
    tab.page.click("#filters-open")
    assert max(tab.page.evaluate(ground)) < 40
    assert tab.page.evaluate(LOW_CONTRAST) == {}
    tab.page.click("#theme")  # The first click goes from the theme of the system to light.
    assert min(tab.page.evaluate(ground)) > 230
    tab.page.wait_for_timeout(300)
    assert tab.page.evaluate(LOW_CONTRAST) == {}
    tab.page.reload()
    assert min(tab.page.evaluate(ground)) > 230
    tab.page.click("#theme")
    assert max(tab.page.evaluate(ground)) < 40


SMALL_CONTROLS = """() => [...document.querySelectorAll("button, select, input, a")]
    .filter((item) => item.checkVisibility() && !item.closest("#grid") && !["checkbox", "range"].includes(item.type))
    .map((item) => [item.id || item.className || item.textContent, item.getBoundingClientRect()])
    .filter(([, box]) => box.width && (box.height < 39.5 || box.width < 39.5)).map(([name]) => name)"""


def test_the_page_fits_on_a_phone(open_tab: OpenTab) -> None:
    phone = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}
    has_no_overflow = "document.documentElement.scrollWidth <= 360 && document.body.scrollWidth <= 360"
    tab = open_tab("/", **phone)
    assert tab.page.evaluate(has_no_overflow)
    assert tab.page.evaluate(SMALL_CONTROLS) == []
    tab.open("/?q=a+photo+of+a+cat+that+looks+at+somebody&q=red&exclude=something+that+has+a+long+name")
    tab.page.wait_for_selector(".card")
    assert tab.page.evaluate(has_no_overflow)
    assert tab.page.evaluate(SMALL_CONTROLS) == []
    rights = tab.page.eval_on_selector_all(".card", "cards => cards.map(card => card.getBoundingClientRect().right)")
    assert max(rights) <= 360
    tab.page.tap("#filters-open")
    panel = tab.page.locator("#filter-panel").bounding_box()
    assert panel["x"] == 0
    assert panel["width"] == 360
    assert panel["y"] + panel["height"] == pytest.approx(740, abs=1)
    assert tab.page.evaluate(SMALL_CONTROLS) == []
    tab.page.locator("#filters-close").tap()
    tab.page.locator(".card").first.tap()
    tab.page.wait_for_selector("#viewer[open]")
    assert tab.page.evaluate(has_no_overflow)
    assert tab.page.evaluate(SMALL_CONTROLS) == []
    tab.page.tap("#viewer-select")
    tools = tab.page.locator("#viewer-frame .selection-buttons").bounding_box()
    assert tools["x"] >= 0
    assert tools["x"] + tools["width"] <= 360
    tab.page.tap("#viewer-close")
    tab.page.wait_for_selector("#viewer", state="hidden")


def test_editing_a_chip_keeps_phrases_and_exclusions_in_order(open_tab: OpenTab) -> None:
    tab = open_tab("/?q=a+cat&q=a+red+suit")
    tab.page.wait_for_selector(".card")
    tab.page.fill("#text", "a red suit -flag")
    tab.wait_until("location.search.includes('exclude=flag')")
    tab.page.click("[aria-label='Change phrase a cat']")
    tab.wait_until("location.search.startsWith('?q=a+red+suit&q=a+cat')")
    assert tab.url_parameters["exclude"] == ["flag"]
    assert tab.page.input_value("#text") == "a cat"
    assert tab.page.locator(".chip").all_inner_texts() == ["a red suit", "not\nflag"]


def test_a_lone_minus_is_not_a_phrase(open_tab: OpenTab) -> None:
    tab = open_tab("/?q=a+cat")
    tab.page.wait_for_selector(".card")
    tab.page.click("#add-exclusion")
    tab.page.keyboard.press("Enter")
    assert tab.url_parameters == {"q": ["a cat"]}


def test_too_many_phrases_are_not_sent(open_tab: OpenTab) -> None:
    tab = open_tab("/?" + urlencode({"q": [f"thing {i}" for i in range(9)]}, doseq=True))
    tab.wait_until("document.querySelector('#note').textContent.includes('8 phrases')")
    assert tab.search_requests == []
    tab.page.click("[aria-label='Remove phrase thing 0']")
    tab.page.wait_for_selector(".card")


def test_the_current_photo_stays_on_the_screen(open_tab: OpenTab) -> None:
    """The window can be resized, and the head of the page does not cover the photo with the focus."""
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
    head = tab.page.locator("header").evaluate(BOUNDING_BOX)[3]
    assert tab.page.evaluate("document.activeElement.getBoundingClientRect().top") >= head


def test_a_date_starts_one_search_when_it_is_complete(open_tab: OpenTab) -> None:
    tab = open_tab("/?q=a+cat")
    tab.page.wait_for_selector(".card")
    request_count, entries = len(tab.search_requests), tab.page.evaluate("history.length")
    tab.page.click("#filters-open")
    tab.page.focus("[name=since]")
    tab.page.keyboard.type("05032024")
    tab.wait_until("location.search.includes('since=2024-05-03')")
    assert len(tab.search_requests) == request_count + 1
    assert tab.page.evaluate("history.length") == entries + 1
    tab.page.click("#filters-clear")
    tab.page.keyboard.press("Escape")
    assert tab.page.locator("#filter-panel").is_hidden()
