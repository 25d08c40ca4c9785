"""The large view of the page: regions, zoom, and boxes that the user draws."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.support.browsed import (
    BOUNDING_BOX,
    OpenTab,
    Site,
    check_boxes,
    drag_finger,
    read_numbers,
)

pytestmark = pytest.mark.browser


def test_the_large_view_shows_all_regions_and_turns_to_neighbours(open_tab: OpenTab, site: Site) -> None:
    tab = open_tab("/?q=a+cat")
    tab.page.wait_for_selector(".card")
    ids = tab.shown_ids()
    tab.page.locator(".card").nth(1).click()
    tab.page.wait_for_selector("#viewer[open]")
    hits = site.request("search", q="a cat", k=48)["hits"]
    assert tab.url_parameters["photo"] == [str(ids[1])]
    assert tab.page.inner_text("#viewer-name") == Path(hits[1]["path"]).name
    assert f"{hits[1]['width_px']:,} × {hits[1]['height_px']:,} pixels" in tab.page.inner_text("#viewer-facts")
    lines = tab.page.locator("#viewer-frame .line")
    drawn = lines.evaluate_all("all => all.map(e => ['x', 'y', 'width', 'height'].map(n => +e.getAttribute(n)))")
    boxes = [region["box"] for region in hits[1]["phrases"][0]["regions"]]
    assert sorted(drawn) == sorted([box[0], box[1], box[2] - box[0], box[3] - box[1]] for box in boxes)
    tab.page.uncheck("#viewer-phrases input")
    assert not lines.first.is_visible()
    tab.page.check("#viewer-phrases input")
    tab.page.keyboard.press("h")
    tab.page.wait_for_selector("#viewer-frame.show-heat")
    tab.page.keyboard.press("ArrowRight")
    assert tab.url_parameters["photo"] == [str(ids[2])]
    tab.page.keyboard.press("ArrowLeft")
    tab.page.keyboard.press("ArrowLeft")
    tab.page.keyboard.press("ArrowLeft")  # There is no photo before the first.
    assert tab.url_parameters["photo"] == [str(ids[0])]
    assert tab.page.get_attribute("#viewer-original", "href") == f"/api/v1/images/{ids[0]}"
    tab.page.keyboard.press("Escape")
    tab.page.wait_for_selector("#viewer", state="hidden")
    tab.wait_until("!location.search.includes('photo')")
    assert tab.page.evaluate("document.activeElement.dataset.id") == str(ids[0])
    tab.page.go_forward()
    tab.page.wait_for_selector("#viewer[open]")
    tab.page.reload()  # The URL opens the photo again.
    tab.page.wait_for_selector("#viewer[open]")
    tab.page.click("#viewer-similar")
    tab.wait_until("location.search.includes('image=')")
    tab.page.wait_for_selector("#viewer", state="hidden")
    assert tab.search_parameters["image"] == [str(ids[0])]
    assert "q" not in tab.search_parameters
    tab.page.wait_for_selector(f".card[data-id='{ids[0]}']")


def test_a_box_drawn_with_the_mouse_is_searched_for(open_tab: OpenTab, site: Site) -> None:
    tab = open_tab("/?q=a+cat&extension=png")
    hit = site.request("search", q="a cat", extension="png", k=1)["hits"][0]
    tab.page.locator(".card").first.click()
    tab.wait_until("document.querySelector('#viewer-image').naturalWidth > 0")
    left, top, right, bottom = tab.page.locator("#viewer-frame").evaluate(BOUNDING_BOX)
    wide, high = right - left, bottom - top
    mouse = tab.page.mouse
    mouse.move(left + 0.7 * wide, top + 0.8 * high)  # The box is drawn from the lower right to the upper left.
    mouse.down()
    mouse.move(left + 0.5 * wide, top + 0.5 * high)
    mouse.move(left + 0.3 * wide, top + 0.2 * high)
    mouse.up()
    tab.page.click("text=Search for this part")
    tab.page.wait_for_selector("#viewer", state="hidden")
    tab.page.wait_for_selector(".chip canvas")
    drawn = [int(part) for part in tab.search_parameters["box"][0].split(",")]
    width, height = hit["width_px"], hit["height_px"]
    assert drawn == pytest.approx([0.3 * width, 0.2 * height, 0.7 * width, 0.8 * height], abs=1.5)
    assert tab.search_parameters["image"] == [str(hit["id"])]
    assert tab.search_parameters["extension"] == ["png"], "the filters stay"
    tab.wait_until(f"document.querySelector('.card')?.dataset.id === '{hit['id']}'")
    wanted = site.request("search", image=hit["id"], box=tab.search_parameters["box"][0], extension="png", k=48)["hits"]
    assert tab.shown_ids()[:3] == [hit["id"] for hit in wanted[:3]]
    check_boxes(tab, wanted[:3])
    tab.search("green eyes")  # The search has an image and a text now.
    assert tab.search_parameters["q"] == ["green eyes"]
    assert tab.search_parameters["image"] == [str(hit["id"])]
    tab.page.go_back()
    tab.wait_until("!location.search.includes('green')")
    tab.page.go_back()
    tab.page.wait_for_selector("#viewer[open]")


def test_a_box_is_changed_by_keys_and_by_touch(open_tab: OpenTab) -> None:
    tab = open_tab("/?q=a+cat", has_touch=True)
    tab.page.locator(".card").first.click()
    tab.page.wait_for_selector("#viewer[open]")
    tab.page.keyboard.press("b")
    part = tab.page.locator("#viewer-frame .selection")
    before = read_numbers(part.get_attribute("aria-label"))
    tab.page.keyboard.press("ArrowRight")
    tab.page.keyboard.press("Shift+ArrowUp")
    after = read_numbers(part.get_attribute("aria-label"))
    assert after[0] > before[0]
    assert after[2] - after[0] == before[2] - before[0]
    assert after[3] < before[3]
    tab.page.keyboard.press("Escape")  # The first Esc removes the box only.
    assert part.is_hidden()
    assert tab.page.locator("#viewer[open]").count() == 1
    drag_finger(tab, "#viewer-frame", (0.2, 0.2), (0.2, 0.9))  # A finger draws no new box.
    assert part.is_hidden()
    tab.page.click("#viewer-select")
    assert read_numbers(part.get_attribute("aria-label")) == before
    drag_finger(tab, "#viewer-frame", (0.1, 0.1), (0.5, 0.9))  # Beside a box, a finger draws another.
    drawn = read_numbers(part.get_attribute("aria-label"))
    wide, high = before[2] + before[0], before[3] + before[1]
    assert drawn == pytest.approx([0.1 * wide, 0.1 * high, 0.5 * wide, 0.9 * high], abs=2)
    part.focus()
    tab.page.keyboard.press("Enter")
    tab.wait_until("location.search.includes('box=')")
    assert tab.search_parameters["box"] == [",".join(map(str, drawn))]


def test_zooming_keeps_the_point_under_the_mouse(open_tab: OpenTab, site: Site) -> None:
    """A double click zooms in, and a box drawn then has the right pixels of the photo."""
    tab = open_tab("/?q=a+cat&extension=png")
    hit = site.request("search", q="a cat", extension="png", k=1)["hits"][0]
    tab.page.locator(".card").first.click()
    tab.wait_until("document.querySelector('#viewer-image').naturalWidth > 0")
    before = tab.page.locator("#viewer-frame").evaluate(BOUNDING_BOX)
    x, y = before[0] + 0.8 * (before[2] - before[0]), before[1] + 0.3 * (before[3] - before[1])
    tab.page.mouse.dblclick(x, y)
    assert tab.page.get_attribute("#viewer-zoom", "aria-pressed") == "true"
    left, top, right, _ = tab.page.locator("#viewer-frame").evaluate(BOUNDING_BOX)
    assert right - left == pytest.approx(2 * (before[2] - before[0]), rel=0.01)
    assert left + 0.8 * (right - left) == pytest.approx(x, abs=2), "the point under the mouse stays there"
    stage = tab.page.locator("#viewer-stage").evaluate(BOUNDING_BOX)
    assert right > stage[2]
    mouse = tab.page.mouse
    mouse.move(x - 100, y - 50)
    mouse.down()
    mouse.move(x, y, steps=3)
    mouse.up()
    scale = hit["width_px"] / (right - left)
    wanted = [(x - 100 - left) * scale, (y - 50 - top) * scale, (x - left) * scale, (y - top) * scale]
    drawn = read_numbers(tab.page.get_attribute("#viewer-frame .selection", "aria-label"))
    assert drawn == pytest.approx(wanted, abs=1.5)
    tools = tab.page.locator("#viewer-frame .selection-buttons").evaluate(BOUNDING_BOX)
    assert stage[0] <= tools[0] < tools[2] <= stage[2]
    assert stage[1] <= tools[1] < tools[3] <= stage[3]
    tab.page.keyboard.press("Escape")
    tab.page.keyboard.press("z")
    assert tab.page.locator("#viewer-frame").evaluate(BOUNDING_BOX) == pytest.approx(before, abs=0.6)


def test_touch_gestures_turn_pages_zoom_and_scroll(open_tab: OpenTab) -> None:
    tab = open_tab("/?q=a+cat", viewport={"width": 400, "height": 800}, is_mobile=True, has_touch=True)
    tab.page.locator(".card").first.tap()
    tab.page.wait_for_selector("#viewer-image.loaded")
    first = tab.url_parameters["photo"]
    drag_finger(tab, "#viewer-stage", (0.8, 0.5), (0.2, 0.5))
    tab.wait_until(f"!location.search.includes('photo={first[0]}')")
    drag_finger(tab, "#viewer-stage", (0.2, 0.5), (0.8, 0.55))
    tab.wait_until(f"location.search.endsWith('photo={first[0]}')")
    drag_finger(tab, "#viewer-stage", (0.2, 0.5), (0.3, 0.9))  # A steep move is no swipe.
    assert tab.url_parameters["photo"] == first
    place = tab.page.locator("#viewer-frame").evaluate(BOUNDING_BOX)
    for _ in range(2):
        tab.page.touchscreen.tap((place[0] + place[2]) / 2, (place[1] + place[3]) / 2)
    tab.wait_until("document.querySelector('#viewer-stage').classList.contains('zoomed')")
    drag_finger(tab, "#viewer-stage", (0.8, 0.5), (0.2, 0.5))  # In a zoomed photo a finger scrolls.
    tab.wait_until("document.querySelector('#viewer-stage').scrollLeft > 0")
    assert tab.url_parameters["photo"] == first


def test_zooming_into_a_large_photo_loads_more_pixels(open_tab: OpenTab, site: Site) -> None:
    hit = site.request("search", q="a cat", k=1)["hits"][0]
    large = json.dumps({**hit, "width_px": 4000, "height_px": 3000})
    tab = open_tab(None)
    tab.page.route("**/api/v1/regions/**", lambda route: route.fulfill(body=large, content_type="application/json"))
    urls: list[str] = []
    tab.page.on("request", lambda request: "/images/" in request.url and urls.append(request.url))
    tab.open(f"/?q=a+cat&extension=jpg&photo={hit['id']}")  # The photo is no JPEG, so it is requested alone.
    tab.page.wait_for_selector("#viewer-image.loaded")
    tab.page.click("#viewer-zoom")
    tab.wait_until("document.querySelector('#viewer-image').src.endsWith('4096')")
    assert [url.partition("?")[2] for url in urls] == ["size=1600", "size=4096"]
    assert tab.page.evaluate("document.querySelector('#viewer-frame').offsetWidth") == 4000


def test_the_date_is_local_and_the_folder_becomes_a_filter(open_tab: OpenTab, site: Site) -> None:
    tab = open_tab("/?q=a+cat", timezone_id="Asia/Tokyo")
    hit = site.request("search", q="a cat", k=1)["hits"][0]
    tab.page.locator(".card").first.click()
    tab.page.wait_for_selector("#viewer[open]")
    shown = "new Date(%s).toLocaleString(undefined, { dateStyle: 'medium', timeStyle: 'short' })"
    wanted = tab.page.evaluate(shown % json.dumps(hit["date"]))  # The date has no zone and shows the same everywhere.
    assert wanted in tab.page.inner_text("#viewer-facts")
    assert tab.page.inner_text("#viewer-path") == hit["path"]
    tab.page.click("#viewer-folder")
    tab.page.wait_for_selector("#viewer", state="hidden")
    tab.wait_until("location.search.includes('folder=')")
    assert tab.search_parameters["folder"] == [str(site.photos)]
    assert tab.search_parameters["q"] == ["a cat"]
    tab.page.click("#filters-open")
    assert tab.page.eval_on_selector("[name=folder]", "select => select.selectedOptions[0].textContent").startswith(
        "\u2068"
    )
    assert tab.page.inner_text("#filters-count") == "1"
    tab.page.go_back()
    tab.page.wait_for_selector("#viewer[open]")


def test_a_small_box_in_a_large_photo_grows_to_the_smallest_size(open_tab: OpenTab, site: Site) -> None:
    """The box keeps its middle; the server takes no box under 2 % of a side."""
    hit = site.request("search", q="a cat", k=1)["hits"][0]
    wide = json.dumps({**hit, "width_px": 12_000, "height_px": 600})
    tab = open_tab(None)
    tab.page.route("**/api/v1/regions/**", lambda route: route.fulfill(body=wide, content_type="application/json"))
    tab.open(f"/?q=a+cat&extension=jpg&photo={hit['id']}")
    tab.page.wait_for_selector("#viewer-image.loaded")
    tab.page.click("#viewer-zoom")
    left, top, _, _ = tab.page.locator("#viewer-frame").evaluate(BOUNDING_BOX)
    mouse = tab.page.mouse
    mouse.move(300, 300)
    mouse.down()
    mouse.move(420, 360, steps=3)
    mouse.up()
    box = read_numbers(tab.page.get_attribute("#viewer-frame .selection", "aria-label"))
    assert tab.page.locator("#viewer-frame .selection-buttons").is_visible()
    assert box[2] - box[0] == 240  # That is 2 % of the width.
    assert (box[0] + box[2]) / 2 == pytest.approx(360 - left, abs=2)
    assert box[1::2] == pytest.approx([300 - top, 360 - top], abs=1.5)


def test_arrows_scroll_a_zoomed_photo(open_tab: OpenTab) -> None:
    tab = open_tab("/?q=a+cat")
    tab.page.locator(".card").first.click()
    tab.page.wait_for_selector("#viewer-image.loaded")
    photo = tab.url_parameters["photo"]
    tab.page.keyboard.press("z")
    before = tab.page.evaluate("document.querySelector('#viewer-stage').scrollLeft")
    tab.page.keyboard.press("ArrowRight")
    tab.wait_until(f"document.querySelector('#viewer-stage').scrollLeft > {before}")
    assert tab.url_parameters["photo"] == photo
    tab.page.keyboard.press("z")
    tab.page.keyboard.press("ArrowRight")
    assert tab.url_parameters["photo"] != photo


def make_tiff(folder: Path) -> Path:
    Image.new("RGB", (120, 80), "red").save(folder / "scan.tiff")
    return folder / "scan.tiff"


def test_a_picture_the_browser_cannot_show_is_searched_as_a_whole(open_tab: OpenTab, tmp_path: Path) -> None:
    tab = open_tab()
    tab.page.set_input_files("#file", str(make_tiff(tmp_path)))
    tab.page.wait_for_selector(".card")
    tab.page.click(".chip .edit")
    tab.page.wait_for_selector("#image-query-note", state="visible")
    assert tab.page.locator("#image-query-select").is_hidden()
    tab.page.click("#image-query-use")
    tab.page.wait_for_selector("#image-query", state="hidden")
    assert "box" not in tab.url_parameters
    assert tab.page.locator(".chip svg.icon").count() == 2  # One icon replaces the picture, one is the cross.


def test_a_chosen_file_is_copied_at_once(open_tab: OpenTab, tmp_path: Path, site: Site) -> None:
    file = tmp_path / "mine.png"
    file.write_bytes((site.photos / "chelsea.png").read_bytes())
    tab = open_tab()
    tab.page.set_input_files("#file", str(file))
    tab.wait_until("document.querySelector('.card')?.title.includes('chelsea')")
    file.write_bytes((site.photos / "coffee.png").read_bytes())
    tab.page.set_input_files("#file", [])
    tab.search("green eyes")
    assert "chelsea" in (tab.page.get_attribute(".card", "title") or "")
    assert tab.page.locator("#alert").is_hidden()


def test_going_back_closes_the_picture_dialog(open_tab: OpenTab, site: Site) -> None:
    tab = open_tab("/?q=a+dog")
    tab.page.wait_for_selector(".card")
    tab.page.set_input_files("#file", str(site.photos / "chelsea.png"))
    tab.page.wait_for_selector(".chip canvas")
    tab.page.click(".chip .edit")
    tab.page.wait_for_selector("#image-query[open]")
    tab.page.go_back()
    tab.wait_until("location.search === '?q=a+dog'")
    assert tab.page.locator("#image-query[open]").count() == 0
