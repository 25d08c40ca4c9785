"""What the page says and does when something is missing, late, gone or changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support.browsed import (
    PHOTOS,
    Open,
    Site,
    Tab,
)

pytestmark = pytest.mark.browser


def test_nothing_is_indexed(open_tab: Open, site: Site) -> None:
    tab = open_tab(None)
    empty = json.dumps({**site.ask("status"), "photos": 0, "views": 0, "folders": []})
    tab.page.route("**/api/v1/status", lambda route: route.fulfill(body=empty, content_type="application/json"))
    tab.go()
    assert "flairsearch index FOLDER" in tab.page.inner_text("#empty-index")
    assert tab.page.locator("#introduction").is_hidden()


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
    tab.page.wait_for_selector(".card .frame.failed")
    assert "not loaded" in tab.page.inner_text(".card >> nth=0")
    tab.page.unroute("**/api/v1/thumbnails/**")
    tab.page.wait_for_selector(".card img.loaded")
    tab.until("!document.querySelector('.card .frame.failed')")
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
        tab.page.wait_for_selector("#viewer-frame.failed")
        assert "the photo is gone" in tab.page.inner_text("#viewer-frame")
        assert tab.page.locator("#viewer-frame .boxes").is_hidden()
        for act in ("similar", "select", "original"):
            assert tab.page.locator(f"#viewer-{act}").is_hidden()
        tab.page.keyboard.press("b")
        assert tab.page.locator("#viewer-frame .selection").is_hidden()
        tab.page.keyboard.press("m")
        assert tab.page.locator("#viewer[open]").count() == 1
        assert all("410" in line for line in tab.complaints)
        tab.complaints.clear()
        hit = site.ask("search", q="a cat", k=1)["hits"][0]
        tab.page.goto(f"{site.home}/?q=a+cat&photo={hit['id']}")
        tab.page.wait_for_selector("#viewer-image.loaded")
        assert tab.page.locator("#viewer-similar").is_visible()
    finally:
        hidden.rename(photo)


def test_a_server_that_wants_its_token(browser: Any, site: Site, open_tab: Open) -> None:
    from tests.support.served import serving_index

    with serving_index(site.photos.parent / "index", token="a secret & more") as other:
        tab = Tab(browser.new_page(), Site(other.url, site.photos))
        tab.page.goto(f"{other.url}/?q=a+cat")
        tab.page.wait_for_selector("#token-dialog[open]")
        tab.page.keyboard.press("Escape")
        assert tab.page.evaluate("document.activeElement.id") == "token"
        tab.page.keyboard.type("a guess")
        tab.page.keyboard.press("Enter")
        tab.until("document.querySelector('#token-error').textContent === 'Wrong token.'")
        assert tab.page.locator(".card").count() == 0
        tab.page.fill("#token", "a secret & more")
        tab.page.keyboard.press("Enter")
        tab.page.wait_for_selector(".card img.loaded")
        assert tab.page.locator("#token-dialog[open]").count() == 0
        assert tab.page.url == f"{other.url}/?q=a+cat", "what was asked for stays, the token is not in the address"
        assert all("401" in line for line in tab.complaints)
        tab.page.context.close()


def test_an_empty_index_fills(browser: Any, site: Site, tmp_path: Path) -> None:
    from tests.support.served import open_index, serving_index

    open_index(tmp_path / "index").close()
    with serving_index(tmp_path / "index") as empty:
        tab = Tab(browser.new_page(), Site(empty.url, site.photos))
        tab.page.goto(f"{empty.url}/?q=a+cat")
        tab.page.wait_for_selector("#empty-index", state="visible")
        assert "flairsearch index FOLDER --index index" in tab.page.inner_text("#empty-index")
        with open_index(tmp_path / "index") as engine:
            engine.add(site.photos)
        tab.page.wait_for_selector(".card img.loaded")
        assert tab.page.locator("#welcome").is_hidden()
        assert f"{PHOTOS} photos searched" in tab.page.inner_text("#counts")
        assert tab.complaints == []
        tab.page.context.close()


# -- a way on from everywhere


def test_an_error_that_was_dismissed_is_not_said_again_and_yet_mended(open_tab: Open) -> None:
    tab = open_tab()
    tab.page.route("**/api/v1/*", lambda route: route.abort())
    tab.page.fill("#text", "a cat")
    tab.page.press("#text", "Enter")
    tab.page.click("#alert >> text=Dismiss")
    tab.page.wait_for_timeout(4000)  # it is knocked at twice meanwhile
    assert tab.page.locator("#alert").is_hidden()
    tab.page.unroute("**/api/v1/*")
    tab.page.wait_for_selector(".card img.loaded")
    tab.complaints.clear()


def test_a_page_that_failed_can_be_asked_for_again(open_tab: Open) -> None:
    tab = open_tab()
    answer = {"status": 503, "body": '{"error": "not now"}', "content_type": "application/json"}
    tab.page.route("**/api/v1/search?*offset=48*", lambda route: route.fulfill(**answer))
    tab.search("a cat")
    tab.page.evaluate("scrollTo(0, document.body.scrollHeight)")
    tab.page.wait_for_selector("#alert", state="visible")
    tab.page.click("#alert >> text=Dismiss")
    assert "did not load" in tab.page.inner_text("#end")
    tab.page.unroute("**/api/v1/search?*offset=48*")
    tab.page.click("#load-more")
    tab.until("document.querySelector('#counts').textContent.includes('96 shown')")
    assert tab.page.evaluate("document.activeElement.classList.contains('card')")
    tab.complaints.clear()


def test_going_back_from_a_slow_search(open_tab: Open) -> None:
    tab = open_tab()
    tab.search("a cat")
    held: list[Any] = []
    tab.page.route("**/api/v1/search?q=slow*", lambda route: held.append(route))
    tab.page.fill("#text", "slow")
    tab.page.press("#text", "Enter")
    tab.until("document.querySelector('#grid').classList.contains('stale')")
    tab.page.go_back()
    tab.until("location.search === '?q=a+cat'")
    tab.until("!document.body.classList.contains('busy')")
    assert not tab.page.evaluate("document.querySelector('#grid').classList.contains('stale')")


def test_what_is_wrong_is_said_in_front_of_the_large_view(open_tab: Open) -> None:
    tab = open_tab("/?q=a+cat")
    tab.page.locator(".card").first.click()
    tab.page.wait_for_selector("#viewer-image.loaded")
    tab.page.route("**/api/v1/**", lambda route: route.abort())
    tab.page.keyboard.press("h")
    tab.page.wait_for_selector("#viewer #alert", state="visible")
    assert tab.page.locator("#viewer-no-heat").is_hidden(), "nobody knows whether there is heat"
    tab.page.unroute("**/api/v1/**")
    tab.page.wait_for_selector("#viewer-frame.show-heat")
    assert tab.page.locator("#alert").is_hidden()
    tab.page.keyboard.press("Escape")
    tab.page.wait_for_selector("#viewer", state="hidden")
    tab.until("document.querySelector('#alert').parentElement.id === 'main'")
    tab.complaints.clear()


def test_a_thumbnail_that_cannot_be_made_is_no_absent_server(open_tab: Open, site: Site) -> None:
    first = site.ask("search", q="a cat", k=1)["hits"][0]["id"]
    asked: list[str] = []
    tab = open_tab()
    tab.page.route(
        f"**/thumbnails/{first}?*", lambda route: asked.append(route.request.method) or route.fulfill(status=500)
    )
    tab.page.fill("#text", "a cat")
    tab.page.press("#text", "Enter")
    tab.page.wait_for_selector(".card .frame.failed")
    assert tab.page.locator("#alert").is_hidden()
    tab.page.unroute(f"**/thumbnails/{first}?*")
    tab.page.wait_for_selector(f".card[data-id='{first}'] img.loaded")
    assert asked == ["GET", "HEAD"]
    assert tab.page.locator("#alert").is_hidden()
    tab.complaints.clear()


def test_photos_that_come_while_one_scrolls_are_told_of(open_tab: Open) -> None:
    tab = open_tab()

    def grow(route: Any) -> None:
        answer = route.fetch().json()
        route.fulfill(json={**answer, "in_scope": answer["in_scope"] + 5})

    tab.page.route("**/api/v1/search?*offset=48*", grow)
    tab.search("a cat")
    tab.page.evaluate("scrollTo(0, document.body.scrollHeight)")
    tab.page.wait_for_selector("#alert", state="visible")
    assert "index has changed" in tab.page.inner_text("#alert")
    many = len(tab.searches)
    tab.page.click("#alert >> text=Search again")
    tab.until("scrollY === 0")
    assert len(tab.searches) > many
    assert "offset" not in parse_qs(urlsplit(tab.searches[many].url).query)


def test_a_link_to_a_photo_far_down_the_page(open_tab: Open, site: Site) -> None:
    hit = site.ask("search", q="a cat", k=200)["hits"][80]
    tab = open_tab(f"/?q=a+cat&photo={hit['id']}")
    tab.page.wait_for_selector("#viewer[open]")
    assert "Rank\n81" in tab.page.inner_text("#viewer-facts")
    assert tab.page.locator("#viewer-previous").is_enabled()
    tab.page.keyboard.press("Escape")
    tab.until(f"document.activeElement.dataset.id === '{hit['id']}'")


def test_a_link_to_a_photo_that_is_none(open_tab: Open) -> None:
    tab = open_tab("/?q=a+cat&photo=99999")
    tab.page.wait_for_selector("#alert", state="visible")
    assert "no longer in the index" in tab.page.inner_text("#alert")
    assert tab.address == {"q": ["a cat"]}
    tab.complaints.clear()


def test_one_step_back_is_one_step(open_tab: Open) -> None:
    tab = open_tab("/?q=a+dog")
    tab.page.wait_for_selector(".card")
    tab.search("a cat")
    tab.page.locator(".card").first.click()
    tab.page.wait_for_selector("#viewer[open]")
    tab.page.reload()
    tab.page.wait_for_selector("#viewer[open]")
    tab.page.keyboard.press("Escape")
    tab.until("!location.search.includes('photo')")
    tab.page.go_back()
    tab.until("location.search === '?q=a+dog'")


def test_what_is_typed_waits_while_a_photo_is_looked_at(open_tab: Open) -> None:
    tab = open_tab("/?q=a+dog")
    tab.page.wait_for_selector(".card img.loaded")
    many = len(tab.searches)
    tab.page.fill("#text", "a cat")
    tab.page.locator(".card").first.click()
    tab.page.wait_for_selector("#viewer[open]")
    tab.page.wait_for_timeout(700)
    assert len(tab.searches) == many
    tab.page.keyboard.press("Escape")
    tab.until("location.search === '?q=a+cat'")
    assert tab.page.input_value("#text") == "a cat"
    assert tab.page.locator("#viewer[open]").count() == 0


def test_a_token_cannot_be_passed_by(browser: Any, site: Site) -> None:
    from tests.support.served import serving_index

    with serving_index(site.photos.parent / "index", token="word") as other:
        context = browser.new_context()
        tabs = [Tab(context.new_page(), Site(other.url, site.photos)) for _ in range(2)]
        for tab in tabs:
            tab.page.goto(f"{other.url}/?q=a+cat")
            tab.page.wait_for_selector("#token-dialog[open]")
        for _ in range(3):
            tabs[0].page.keyboard.press("Escape")
            tabs[0].page.mouse.click(5, 5)
        tabs[0].page.wait_for_selector("#token-dialog[open]")
        for tab in tabs:  # the second one has the first one's cookie by then
            tab.page.fill("#token", "word")
            tab.page.keyboard.press("Enter")
            tab.page.wait_for_selector(".card img.loaded")
        context.close()
