import asyncio
import http.cookies
import json

import pytest

from flairsearch.core.request import MAX_BODY_BYTES
from flairsearch.serve.security import MAX_URL_BYTES, SecurityMiddleware, is_loopback, is_wildcard

GOOD = {"host": "127.0.0.1:8421"}


async def echo(scope, receive, send):
    """An app that answers with the body."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": body})


def ask(guarded, path="/", query="", method="GET", headers=GOOD, parts=(b"",)):
    """-> (status, headers, body)."""
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
    asyncio.run(guarded(scope, receive, send))
    head, *bodies = sent
    body = b"".join(message["body"] for message in bodies)
    return head["status"], {name.decode(): value.decode() for name, value in head["headers"]}, body


def refused(answer):
    """The status of a refusal in the form of all errors."""
    status, headers, body = answer
    assert headers["content-type"] == "application/json"
    (text,) = json.loads(body).values()
    assert "\n" not in text
    assert text
    return status


@pytest.fixture
def local():
    return SecurityMiddleware(echo, "127.0.0.1", None)


OF_THIS_MACHINE = [
    "127.0.0.1",
    "127.0.0.1:8421",
    "localhost:1",
    "LOCALHOST",
    "[::1]:8421",
    "[::1]",
    "127.9.9.9",
    "localhost.",
]


def test_hosts_of_this_machine(local, subtests):
    for host in OF_THIS_MACHINE:
        with subtests.test(host):
            assert ask(local, headers={"host": host})[0] == 200


OF_OTHERS = [
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
    for host in OF_OTHERS:
        with subtests.test(repr(host)):
            assert refused(ask(local, headers={"host": host})) == 400


def test_no_host_is_refused(local):
    assert refused(ask(local, headers={})) == 400


def test_the_bound_name_is_a_host_and_any_address_where_all_are_listened_on():
    assert ask(SecurityMiddleware(echo, "photos.lan", None), headers={"host": "Photos.LAN:80"})[0] == 200
    everywhere = SecurityMiddleware(echo, "0.0.0.0", None)
    assert ask(everywhere, headers={"host": "192.168.1.5:8421"})[0] == 200
    assert refused(ask(everywhere, headers={"host": "evil.example"})) == 400


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_pages_of_other_sites_may_only_link_to_the_page(local, site):
    fetch = GOOD | {"sec-fetch-site": site}
    visit = fetch | {"sec-fetch-mode": "navigate"}
    assert refused(ask(local, "/api/v1/search", headers=fetch)) == 403
    assert refused(ask(local, "/api/v1/images/1", headers=visit)) == 403
    assert refused(ask(local, "/", headers=fetch | {"sec-fetch-mode": "no-cors"})) == 403
    assert refused(ask(local, "/", method="POST", headers=visit)) == 403
    assert ask(local, "/", headers=visit)[0] == 200
    for own in ("same-origin", "none"):
        assert ask(local, "/api/v1/search", headers=GOOD | {"sec-fetch-site": own})[0] == 200


def test_other_origins_are_refused(local):
    for origin in ("null", "http://evil.example", "http://127.0.0.1:9999", ""):
        assert refused(ask(local, headers=GOOD | {"origin": origin})) == 403
    assert ask(local, headers=GOOD | {"origin": "http://127.0.0.1:8421"})[0] == 200


def test_names_of_a_proxy():
    proxied = SecurityMiddleware(echo, "127.0.0.1", None, ["Photos.example.org"])
    behind = {"host": "photos.example.org", "origin": "https://photos.example.org"}
    assert ask(proxied, "/api/v1/search", method="POST", headers=behind)[0] == 200
    assert ask(proxied, headers=GOOD)[0] == 200
    assert refused(ask(proxied, headers={"host": "example.org"})) == 400
    assert refused(ask(proxied, headers=behind | {"origin": "https://evil.example.org"})) == 403


def test_every_answer_has_the_headers(local):
    for answer in (ask(local), ask(local, headers={"host": "evil.example"})):
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

    def test_without_it_only_health_and_the_bare_page_answer(self, locked):
        for path in ("/api/v1/search", "/api/v1/images/1", "/api/v1/metrics", "/api/v1/health/", "/nothing", "/static"):
            status, headers, _ = answer = ask(locked, path)
            assert refused(answer) == status == 401
            assert headers["www-authenticate"] == "Bearer"
        assert {ask(locked, path)[0] for path in ("/api/v1/health", "/", "/static/app.js")} == {200}

    def test_as_bearer(self, locked):
        assert ask(locked, headers=GOOD | {"authorization": f"Bearer {self.SECRET}"})[0] == 200
        for wrong in (
            "Bearer",
            f"Bearer {self.SECRET}x",
            "Bearer s3cret",
            f"Basic {self.SECRET}",
            "Bearer é",
            self.SECRET,
        ):
            assert refused(ask(locked, "/api/v1/status", headers=GOOD | {"authorization": wrong})) == 401

    def test_a_visit_with_it_sets_a_cookie_that_stands_for_it(self, locked):
        status, headers, body = ask(locked, "/", "token=s3cret%2B%2F%3D")
        assert (status, headers["location"], body) == (303, "/", b"")
        assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= {part.strip() for part in headers["set-cookie"].split(";")}
        ((name, cookie),) = http.cookies.SimpleCookie(headers["set-cookie"]).items()
        assert self.SECRET not in headers["set-cookie"]
        assert ask(locked, "/api/v1/search", headers=GOOD | {"cookie": f"a=b; {name}={cookie.value}"})[0] == 200
        others = 'prefs={"a": 1}; a=b c; a[b]=1; hello; \xe9'  # of other servers on this machine
        assert ask(locked, "/api/v1/search", headers=GOOD | {"cookie": f"{others}; {name}={cookie.value}"})[0] == 200
        for wrong in (f"{name}={cookie.value[:-1]}", f"{name}=", f"{name}={self.SECRET}", "{", "é=ü"):
            assert refused(ask(locked, "/api/v1/status", headers=GOOD | {"cookie": wrong})) == 401

    def test_a_wrong_one_in_the_url_or_elsewhere_than_the_page(self, locked):
        for query in ("token=", "token=s3cret", "token=%ff", "token=s3cret%2B%2F%3D&token=x"):
            assert refused(ask(locked, "/", query)) == 401
        assert refused(ask(locked, "/api/v1/search", "token=s3cret%2B%2F%3D")) == 401

    def test_two_servers_on_a_machine_have_cookies_of_their_own(self):
        names = set()
        for token in ("one", "two"):
            _, headers, _ = ask(SecurityMiddleware(echo, "127.0.0.1", token), "/", f"token={token}")
            names.add(headers["set-cookie"].partition("=")[0])
        assert len(names) == 2


def test_a_body_comes_whole(local):
    assert ask(local, method="POST", parts=(b"a" * 9, b"", b"b"))[2] == b"a" * 9 + b"b"


@pytest.mark.parametrize("length", [None, "5", "0", "-1", "x"])
def test_a_body_is_counted_as_it_comes(local, length):
    headers = GOOD | ({} if length is None else {"content-length": length})
    piece = bytes(MAX_BODY_BYTES // 4)
    assert ask(local, method="POST", headers=headers, parts=[piece] * 4)[0] == 200
    assert refused(ask(local, method="POST", headers=headers, parts=[piece] * 4 + [b"x"])) == 413
    assert local._held_bytes == 0


def test_a_length_that_is_too_much_is_refused_at_once(local):
    headers = GOOD | {"content-length": str(10**30)}
    assert refused(ask(local, method="POST", headers=headers, parts=(None,))) == 413


def test_all_bodies_together_are_bounded():
    small = SecurityMiddleware(echo, "127.0.0.1", None, max_total_bytes=100)
    assert refused(ask(small, method="POST", parts=(bytes(60), bytes(60)))) == 429
    assert ask(small, method="POST", parts=(bytes(60),))[0] == 200
    assert small._held_bytes == 0


def test_a_body_that_does_not_come():
    impatient = SecurityMiddleware(echo, "127.0.0.1", None, body_seconds=0.05)
    assert refused(ask(impatient, method="POST", parts=(b"a", None))) == 408


def test_a_long_url(local):
    assert refused(ask(local, query="q=" + "a" * MAX_URL_BYTES)) == 414
    assert ask(local, query="q=" + "a" * (MAX_URL_BYTES - 10))[0] == 200


def test_many_or_long_headers(local):
    assert refused(ask(local, headers=GOOD | {f"x-{number}": "a" for number in range(200)})) == 431
    assert refused(ask(local, headers=GOOD | {"x": "a" * 32_000})) == 431
    assert ask(local, headers=GOOD | {f"x-{number}": "a" * 100 for number in range(100)})[0] == 200


def test_which_hosts_need_a_token():
    assert all(map(is_loopback, ["127.0.0.1", "127.1.2.3", "::1", "localhost"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "192.168.1.2", "photos.lan", "localhost.evil.example", ""]))
    assert [is_wildcard(host) for host in ("0.0.0.0", "::", "127.0.0.1", "localhost")] == [True, True, False, False]
