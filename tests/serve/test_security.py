"""SecurityMiddleware: hosts, sites, the token, and limits of bodies, URLs and headers."""

import asyncio
import http.cookies
import json

import pytest

from flairsearch.core.request import MAX_BODY_BYTES
from flairsearch.serve.security import MAX_URL_BYTES, SecurityMiddleware, is_loopback, is_wildcard

GOOD_HEADERS = {"host": "127.0.0.1:8421"}


async def echo(scope, receive, send):
    """An app that answers with the body of the request."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": body})


def send_request(app, path="/", query="", method="GET", headers=GOOD_HEADERS, parts=(b"",)):
    """Send a request to an app and return (status, headers, body); None in `parts` is a part that never arrives."""
    sent, left = [], list(parts)

    async def receive():
        if left and left[0] is None:
            await asyncio.sleep(60)
        if not left:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
    }
    asyncio.run(app(scope, receive, send))
    head, *bodies = sent
    body = b"".join(message["body"] for message in bodies)
    return head["status"], {name.decode(): value.decode() for name, value in head["headers"]}, body


def error_status(answer):
    """Check that an answer has the form of all errors, and return its status."""
    status, headers, body = answer
    assert headers["content-type"] == "application/json"
    (text,) = json.loads(body).values()
    assert "\n" not in text
    assert text
    return status


@pytest.fixture
def local():
    return SecurityMiddleware(echo, "127.0.0.1", None)


OWN_HOSTS = [
    "127.0.0.1",
    "127.0.0.1:8421",
    "localhost:1",
    "LOCALHOST",
    "[::1]:8421",
    "[::1]",
    "127.9.9.9",
    "localhost.",
]


def test_names_and_addresses_of_this_machine_are_accepted(local, subtests):
    for host in OWN_HOSTS:
        with subtests.test(host):
            assert send_request(local, headers={"host": host})[0] == 200


FOREIGN_HOSTS = [
    "evil.example",
    "",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "192.168.1.5",
    "[::2]",
    "a:b:c",
    "é",
]


def test_other_hosts_are_refused(local, subtests):
    for host in FOREIGN_HOSTS:
        with subtests.test(repr(host)):
            assert error_status(send_request(local, headers={"host": host})) == 400


def test_no_host_is_refused(local):
    assert error_status(send_request(local, headers={})) == 400


def test_the_bound_name_is_accepted_and_any_address_of_a_wildcard_server():
    assert send_request(SecurityMiddleware(echo, "photos.lan", None), headers={"host": "Photos.LAN:80"})[0] == 200
    everywhere = SecurityMiddleware(echo, "0.0.0.0", None)
    assert send_request(everywhere, headers={"host": "192.168.1.5:8421"})[0] == 200
    assert error_status(send_request(everywhere, headers={"host": "evil.example"})) == 400


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_pages_of_other_sites_may_only_link_to_the_page(local, site):
    fetch = GOOD_HEADERS | {"sec-fetch-site": site}
    visit = fetch | {"sec-fetch-mode": "navigate"}
    assert error_status(send_request(local, "/api/v1/search", headers=fetch)) == 403
    assert error_status(send_request(local, "/api/v1/images/1", headers=visit)) == 403
    assert error_status(send_request(local, "/", headers=fetch | {"sec-fetch-mode": "no-cors"})) == 403
    assert error_status(send_request(local, "/", method="POST", headers=visit)) == 403
    assert send_request(local, "/", headers=visit)[0] == 200
    for own in ("same-origin", "none"):
        assert send_request(local, "/api/v1/search", headers=GOOD_HEADERS | {"sec-fetch-site": own})[0] == 200


def test_other_origins_are_refused(local):
    for origin in ("null", "http://evil.example", "http://127.0.0.1:9999", ""):
        assert error_status(send_request(local, headers=GOOD_HEADERS | {"origin": origin})) == 403
    assert send_request(local, headers=GOOD_HEADERS | {"origin": "http://127.0.0.1:8421"})[0] == 200


def test_the_name_of_a_proxy_is_accepted():
    proxied = SecurityMiddleware(echo, "127.0.0.1", None, ["Photos.example.org"])
    behind = {"host": "photos.example.org", "origin": "https://photos.example.org"}
    assert send_request(proxied, "/api/v1/search", method="POST", headers=behind)[0] == 200
    assert send_request(proxied, headers=GOOD_HEADERS)[0] == 200
    assert error_status(send_request(proxied, headers={"host": "example.org"})) == 400
    assert error_status(send_request(proxied, headers=behind | {"origin": "https://evil.example.org"})) == 403


def test_every_response_has_the_security_headers(local):
    for answer in (send_request(local), send_request(local, headers={"host": "evil.example"})):
        headers = answer[1]
        assert headers["content-security-policy"].startswith("default-src 'self'; img-src 'self' blob: data:;")
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert not {name for name in headers if name.startswith("access-control") or name == "server"}


class TestToken:
    SECRET = "s3cret+/="

    @pytest.fixture
    def locked(self):
        return SecurityMiddleware(echo, "127.0.0.1", self.SECRET)

    def test_without_a_token_only_health_and_the_page_answer(self, locked):
        for path in ("/api/v1/search", "/api/v1/images/1", "/api/v1/metrics", "/api/v1/health/", "/nothing", "/static"):
            status, headers, _ = answer = send_request(locked, path)
            assert error_status(answer) == status == 401
            assert headers["www-authenticate"] == "Bearer"
        assert {send_request(locked, path)[0] for path in ("/api/v1/health", "/", "/static/app.js")} == {200}

    def test_a_bearer_token_is_checked(self, locked):
        assert send_request(locked, headers=GOOD_HEADERS | {"authorization": f"Bearer {self.SECRET}"})[0] == 200
        for wrong in (
            "Bearer",
            f"Bearer {self.SECRET}x",
            "Bearer s3cret",
            f"Basic {self.SECRET}",
            "Bearer é",
            self.SECRET,
        ):
            assert (
                error_status(send_request(locked, "/api/v1/status", headers=GOOD_HEADERS | {"authorization": wrong}))
                == 401
            )

    def test_a_visit_with_the_token_sets_a_cookie_that_replaces_it(self, locked):
        status, headers, body = send_request(locked, "/", "token=s3cret%2B%2F%3D")
        assert (status, headers["location"], body) == (303, "/", b"")
        assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= {part.strip() for part in headers["set-cookie"].split(";")}
        ((name, cookie),) = http.cookies.SimpleCookie(headers["set-cookie"]).items()
        assert self.SECRET not in headers["set-cookie"]
        assert (
            send_request(locked, "/api/v1/search", headers=GOOD_HEADERS | {"cookie": f"a=b; {name}={cookie.value}"})[0]
            == 200
        )
        others = 'prefs={"a": 1}; a=b c; a[b]=1; hello; \xe9'  # Cookies of other servers on this machine.
        assert (
            send_request(
                locked, "/api/v1/search", headers=GOOD_HEADERS | {"cookie": f"{others}; {name}={cookie.value}"}
            )[0]
            == 200
        )
        for wrong in (f"{name}={cookie.value[:-1]}", f"{name}=", f"{name}={self.SECRET}", "{", "é=ü"):
            assert error_status(send_request(locked, "/api/v1/status", headers=GOOD_HEADERS | {"cookie": wrong})) == 401

    def test_a_token_in_the_url_must_be_right_and_is_for_the_page_only(self, locked):
        for query in ("token=", "token=s3cret", "token=%ff", "token=s3cret%2B%2F%3D&token=x"):
            assert error_status(send_request(locked, "/", query)) == 401
        assert error_status(send_request(locked, "/api/v1/search", "token=s3cret%2B%2F%3D")) == 401

    def test_two_servers_on_one_machine_use_different_cookies(self):
        names = set()
        for token in ("one", "two"):
            _, headers, _ = send_request(SecurityMiddleware(echo, "127.0.0.1", token), "/", f"token={token}")
            names.add(headers["set-cookie"].partition("=")[0])
        assert len(names) == 2


def test_a_body_arrives_complete(local):
    assert send_request(local, method="POST", parts=(b"a" * 9, b"", b"b"))[2] == b"a" * 9 + b"b"


@pytest.mark.parametrize("length", [None, "5", "0", "-1", "x"])
def test_a_body_is_limited_whatever_its_content_length(local, length):
    headers = GOOD_HEADERS | ({} if length is None else {"content-length": length})
    piece = bytes(MAX_BODY_BYTES // 4)
    assert send_request(local, method="POST", headers=headers, parts=[piece] * 4)[0] == 200
    assert error_status(send_request(local, method="POST", headers=headers, parts=[piece] * 4 + [b"x"])) == 413
    assert local._held_bytes == 0


def test_a_content_length_over_the_limit_is_refused_at_once(local):
    headers = GOOD_HEADERS | {"content-length": str(10**30)}
    assert error_status(send_request(local, method="POST", headers=headers, parts=(None,))) == 413


def test_all_bodies_together_are_limited():
    small = SecurityMiddleware(echo, "127.0.0.1", None, max_total_bytes=100)
    assert error_status(send_request(small, method="POST", parts=(bytes(60), bytes(60)))) == 429
    assert send_request(small, method="POST", parts=(bytes(60),))[0] == 200
    assert small._held_bytes == 0


def test_a_body_that_does_not_arrive_times_out():
    impatient = SecurityMiddleware(echo, "127.0.0.1", None, body_seconds=0.05)
    assert error_status(send_request(impatient, method="POST", parts=(b"a", None))) == 408


def test_a_long_url_is_refused(local):
    assert error_status(send_request(local, query="q=" + "a" * MAX_URL_BYTES)) == 414
    assert send_request(local, query="q=" + "a" * (MAX_URL_BYTES - 10))[0] == 200


def test_too_many_or_too_long_headers_are_refused(local):
    assert (
        error_status(send_request(local, headers=GOOD_HEADERS | {f"x-{number}": "a" for number in range(200)})) == 431
    )
    assert error_status(send_request(local, headers=GOOD_HEADERS | {"x": "a" * 32_000})) == 431
    assert send_request(local, headers=GOOD_HEADERS | {f"x-{number}": "a" * 100 for number in range(100)})[0] == 200


def test_loopback_and_wildcard_hosts_are_recognised():
    assert all(map(is_loopback, ["127.0.0.1", "127.1.2.3", "::1", "localhost"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "192.168.1.2", "photos.lan", "localhost.evil.example", ""]))
    assert [is_wildcard(host) for host in ("0.0.0.0", "::", "127.0.0.1", "localhost")] == [True, True, False, False]
