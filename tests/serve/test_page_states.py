"""The page when the server, the token, a photo or an answer is missing, late or changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support.browsed import (
    PHOTO_COUNT,
    OpenTab,
    Site,
    Tab,
)

pytestmark = pytest.mark.browser


def test_an_empty_index_shows_the_index_command(open_tab: OpenTab, site: Site) -> None:
    tab = open_tab(None)
    empty = json.dumps({**site.request("status"), "photos": 0, "views": 0, "folders": []})
    tab.page.route("**/api/v1/status", lambda route: route.fulfill(body=empty, content_type="application/json"))
    tab.open()
    assert "flairsearch index FOLDER" in tab.page.inner_text("#empty-index")
    assert tab.page.locator("#introduction").is_hidden()


def test_a_late_answer_of_an_old_search_is_ignored(open_tab: OpenTab) -> None:
    tab = open_tab()
    held: list[Any] = []
    tab.page.route("**/api/v1/search?q=first*", lambda route: held.append(route))
    tab.page.fill("#text", "first")
    tab.page.press("#text", "Enter")
    tab.wait_until("document.body.classList.contains('busy')")
    with tab.page.expect_event("requestfailed", lambda request: "first" in request.url):
        tab.search("a cat")
    assert len(held) == 1
    assert "chelsea" in (tab.page.get_attribute(".card", "title") or "")
    assert tab.page.locator("#alert").is_hidden()


def test_errors_are_one_line(open_tab: OpenTab) -> None:
    tab = open_tab("/?q=a+cat&since=never")
    tab.page.wait_for_selector("#alert", state="visible")
    assert "never" in tab.page.inner_text("[role=alert]")
    assert tab.page.locator("#alert >> text=Try again").count() == 0
    assert len(tab.console_errors) == 1
    assert "400" in tab.console_errors.pop()


@pytest.mark.parametrize("user", ["waits", "retries"])
def test_failed_requests_are_repeated_when_the_server_is_back(open_tab: OpenTab, user: str) -> None:
    """Searches and thumbnails are requested again, by a timer or by the user."""
    tab = open_tab()
    tab.page.route("**/api/v1/*", lambda route: route.abort())
    tab.page.route("**/api/v1/thumbnails/**", lambda route: route.abort())
    tab.page.fill("#text", "a cat")
    tab.page.press("#text", "Enter")
    tab.page.wait_for_selector("#alert", state="visible")
    assert "does not answer" in tab.page.inner_text("[role=alert]")
    tab.page.unroute("**/api/v1/*")
    if user == "retries":
        tab.page.click("text=Try again")
    tab.page.wait_for_selector(".card .frame.failed")
    assert "not loaded" in tab.page.inner_text(".card >> nth=0")
    tab.page.unroute("**/api/v1/thumbnails/**")
    tab.page.wait_for_selector(".card img.loaded")
    tab.wait_until("!document.querySelector('.card .frame.failed')")
    assert tab.page.locator("#alert").is_hidden()
    assert all("ERR_FAILED" in line for line in tab.console_errors)
    tab.console_errors.clear()


def test_a_photo_whose_file_is_gone(open_tab: OpenTab, site: Site) -> None:
    hit = site.request("search", q="a cat", k=200)["hits"][-1]
    photo = Path(hit["path"])
    hidden = photo.with_suffix(".away")
    photo.rename(hidden)
    try:
        tab = open_tab(f"/?q=a+cat&photo={hit['id']}")
        tab.page.wait_for_selector("#viewer-frame.failed")
        assert "the photo is gone" in tab.page.inner_text("#viewer-frame")
        assert tab.page.locator("#viewer-frame .boxes").is_hidden()
        for name in ("similar", "select", "original"):
            assert tab.page.locator(f"#viewer-{name}").is_hidden()
        tab.page.keyboard.press("b")
        assert tab.page.locator("#viewer-frame .selection").is_hidden()
        tab.page.keyboard.press("m")
        assert tab.page.locator("#viewer[open]").count() == 1
        assert all("410" in line for line in tab.console_errors)
        tab.console_errors.clear()
        hit = site.request("search", q="a cat", k=1)["hits"][0]
        tab.page.goto(f"{site.home}/?q=a+cat&photo={hit['id']}")
        tab.page.wait_for_selector("#viewer-image.loaded")
        assert tab.page.locator("#viewer-similar").is_visible()
    finally:
        hidden.rename(photo)


def test_the_token_dialog_accepts_the_token_only(browser: Any, site: Site, open_tab: OpenTab) -> None:
    from tests.support.served import serving_index

    with serving_index(site.photos.parent / "index", token="a secret & more") as other:
        tab = Tab(browser.new_page(), Site(other.url, site.photos))
        tab.page.goto(f"{other.url}/?q=a+cat")
        tab.page.wait_for_selector("#token-dialog[open]")
        tab.page.keyboard.press("Escape")
        assert tab.page.evaluate("document.activeElement.id") == "token"
        tab.page.keyboard.type("a guess")
        tab.page.keyboard.press("Enter")
        tab.wait_until("document.querySelector('#token-error').textContent === 'Wrong token.'")
        assert tab.page.locator(".card").count() == 0
        tab.page.fill("#token", "a secret & more")
        tab.page.keyboard.press("Enter")
        tab.page.wait_for_selector(".card img.loaded")
        assert tab.page.locator("#token-dialog[open]").count() == 0
        assert tab.page.url == f"{other.url}/?q=a+cat", "the query stays and the token is not in the URL"
        assert all("401" in line for line in tab.console_errors)
        tab.page.context.close()


def test_photos_appear_when_an_empty_index_is_filled(browser: Any, site: Site, tmp_path: Path) -> None:
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
        assert f"{PHOTO_COUNT} photos searched" in tab.page.inner_text("#counts")
        assert tab.console_errors == []
        tab.page.context.close()


def test_a_dismissed_error_stays_away_and_the_request_is_repeated(open_tab: OpenTab) -> None:
    tab = open_tab()
    tab.page.route("**/api/v1/*", lambda route: route.abort())
    tab.page.fill("#text", "a cat")
    tab.page.press("#text", "Enter")
    tab.page.click("#alert >> text=Dismiss")
    tab.page.wait_for_timeout(4000)  # The server is probed twice in this time.
    assert tab.page.locator("#alert").is_hidden()
    tab.page.unroute("**/api/v1/*")
    tab.page.wait_for_selector(".card img.loaded")
    tab.console_errors.clear()


def test_a_failed_page_can_be_loaded_again(open_tab: OpenTab) -> None:
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
    tab.wait_until("document.querySelector('#counts').textContent.includes('96 shown')")
    assert tab.page.evaluate("document.activeElement.classList.contains('card')")
    tab.console_errors.clear()


def test_going_back_cancels_a_slow_search(open_tab: OpenTab) -> None:
    tab = open_tab()
    tab.search("a cat")
    held: list[Any] = []
    tab.page.route("**/api/v1/search?q=slow*", lambda route: held.append(route))
    tab.page.fill("#text", "slow")
    tab.page.press("#text", "Enter")
    tab.wait_until("document.querySelector('#grid').classList.contains('stale')")
    tab.page.go_back()
    tab.wait_until("location.search === '?q=a+cat'")
    tab.wait_until("!document.body.classList.contains('busy')")
    assert not tab.page.evaluate("document.querySelector('#grid').classList.contains('stale')")


def test_errors_show_in_front_of_the_large_view(open_tab: OpenTab) -> None:
    tab = open_tab("/?q=a+cat")
    tab.page.locator(".card").first.click()
    tab.page.wait_for_selector("#viewer-image.loaded")
    tab.page.route("**/api/v1/**", lambda route: route.abort())
    tab.page.keyboard.press("h")
    tab.page.wait_for_selector("#viewer #alert", state="visible")
    assert tab.page.locator("#viewer-no-heat").is_hidden(), "it is unknown whether there is a heat map"
    tab.page.unroute("**/api/v1/**")
    tab.page.wait_for_selector("#viewer-frame.show-heat")
    assert tab.page.locator("#alert").is_hidden()
    tab.page.keyboard.press("Escape")
    tab.page.wait_for_selector("#viewer", state="hidden")
    tab.wait_until("document.querySelector('#alert').parentElement.id === 'main'")
    tab.console_errors.clear()


def test_a_failed_thumbnail_is_not_a_lost_server(open_tab: OpenTab, site: Site) -> None:
    first = site.request("search", q="a cat", k=1)["hits"][0]["id"]
    methods: list[str] = []
    tab = open_tab()
    tab.page.route(
        f"**/thumbnails/{first}?*", lambda route: methods.append(route.request.method) or route.fulfill(status=500)
    )
    tab.page.fill("#text", "a cat")
    tab.page.press("#text", "Enter")
    tab.page.wait_for_selector(".card .frame.failed")
    assert tab.page.locator("#alert").is_hidden()
    tab.page.unroute(f"**/thumbnails/{first}?*")
    tab.page.wait_for_selector(f".card[data-id='{first}'] img.loaded")
    assert methods == ["GET", "HEAD"]
    assert tab.page.locator("#alert").is_hidden()
    tab.console_errors.clear()


def test_a_changed_index_is_reported_while_scrolling(open_tab: OpenTab) -> None:
    tab = open_tab()

    def grow(route: Any) -> None:
        answer = route.fetch().json()
        route.fulfill(json={**answer, "in_scope": answer["in_scope"] + 5})

    tab.page.route("**/api/v1/search?*offset=48*", grow)
    tab.search("a cat")
    tab.page.evaluate("scrollTo(0, document.body.scrollHeight)")
    tab.page.wait_for_selector("#alert", state="visible")
    assert "index has changed" in tab.page.inner_text("#alert")
    request_count = len(tab.search_requests)
    tab.page.click("#alert >> text=Search again")
    tab.wait_until("scrollY === 0")
    assert len(tab.search_requests) > request_count
    assert "offset" not in parse_qs(urlsplit(tab.search_requests[request_count].url).query)


def test_a_link_opens_a_photo_far_down_the_results(open_tab: OpenTab, site: Site) -> None:
    hit = site.request("search", q="a cat", k=200)["hits"][80]
    tab = open_tab(f"/?q=a+cat&photo={hit['id']}")
    tab.page.wait_for_selector("#viewer[open]")
    assert "Rank\n81" in tab.page.inner_text("#viewer-facts")
    assert tab.page.locator("#viewer-previous").is_enabled()
    tab.page.keyboard.press("Escape")
    tab.wait_until(f"document.activeElement.dataset.id === '{hit['id']}'")


def test_a_link_to_an_unknown_photo(open_tab: OpenTab) -> None:
    tab = open_tab("/?q=a+cat&photo=99999")
    tab.page.wait_for_selector("#alert", state="visible")
    assert "no longer in the index" in tab.page.inner_text("#alert")
    assert tab.url_parameters == {"q": ["a cat"]}
    tab.console_errors.clear()


def test_closing_a_photo_leaves_one_history_entry_per_search(open_tab: OpenTab) -> None:
    tab = open_tab("/?q=a+dog")
    tab.page.wait_for_selector(".card")
    tab.search("a cat")
    tab.page.locator(".card").first.click()
    tab.page.wait_for_selector("#viewer[open]")
    tab.page.reload()
    tab.page.wait_for_selector("#viewer[open]")
    tab.page.keyboard.press("Escape")
    tab.wait_until("!location.search.includes('photo')")
    tab.page.go_back()
    tab.wait_until("location.search === '?q=a+dog'")


def test_typed_text_is_searched_after_the_large_view_closes(open_tab: OpenTab) -> None:
    tab = open_tab("/?q=a+dog")
    tab.page.wait_for_selector(".card img.loaded")
    request_count = len(tab.search_requests)
    tab.page.fill("#text", "a cat")
    tab.page.locator(".card").first.click()
    tab.page.wait_for_selector("#viewer[open]")
    tab.page.wait_for_timeout(700)
    assert len(tab.search_requests) == request_count
    tab.page.keyboard.press("Escape")
    tab.wait_until("location.search === '?q=a+cat'")
    assert tab.page.input_value("#text") == "a cat"
    assert tab.page.locator("#viewer[open]").count() == 0


def test_the_token_dialog_cannot_be_closed(browser: Any, site: Site) -> None:
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
        for tab in tabs:  # The second tab has the cookie of the first by then.
            tab.page.fill("#token", "word")
            tab.page.keyboard.press("Enter")
            tab.page.wait_for_selector(".card img.loaded")
        context.close()
