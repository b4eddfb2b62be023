"""Whom the editor answers, and what it tells everyone."""

from __future__ import annotations

import pytest

pytest.importorskip("werkzeug", reason="the editor needs the extra [editor]")

from editor_fixtures import HOST, ORIGIN, PORT, REQUEST, TOKEN, Page, small_network
from werkzeug.test import EnvironBuilder

from ssn_plugin.editor import launch
from ssn_plugin.editor.guard import MAX_BODY_BYTES, allowed_hosts, new_token
from ssn_plugin.editor.server import EditorServer, check_host
from ssn_plugin.editor.studio import Studio
from ssn_plugin.edits.session import Session


@pytest.fixture(scope="module")
def studio():
    studio = Studio(Session(small_network()))
    yield studio
    studio.close()


@pytest.fixture
def page(studio) -> Page:
    return Page(studio)


def test_the_page_itself_is_answered_without_the_token(page):
    answer = page.get("/", X_SSN_Token=None)
    assert answer.status_code == 200 and answer.mimetype == "text/html"
    assert page.get("/app.js", X_SSN_Token=None).mimetype == "text/javascript"


@pytest.mark.parametrize("path", ["/api/session", "/api/image/s1", "/api/seed/1"])
@pytest.mark.parametrize("token", [None, "", "t" * 42, "T" * 43, TOKEN + " x", "\u00fc"])
def test_nothing_else_is_answered_without_it(page, path, token):
    assert page.get(path, X_SSN_Token=token).status_code == 403


@pytest.mark.parametrize("host", [None, "", "example.com", f"example.com:{PORT}", "127.0.0.1", f"127.0.0.1:{PORT + 1}",
                                  f"localhost.example.com:{PORT}", f"127.0.0.1:{PORT}@example.com", "[::1]:8123"])
@pytest.mark.parametrize("path", ["/", "/api/session"])
def test_another_or_no_host_is_refused_as_dns_rebinding_would_send_it(page, host, path):
    assert page.get(path, Host=host or "").status_code == 421


def test_our_own_names_are_answered(page):
    for host in (HOST, f"localhost:{PORT}", f"LOCALHOST:{PORT}"):
        assert page.get("/api/session", Host=host).status_code == 200


@pytest.mark.parametrize("origin", ["null", "http://example.com", f"https://{HOST}", "http://127.0.0.1", f"{ORIGIN}/",
                                    f"http://localhost:{PORT}", ""])
def test_requests_of_another_origin_are_refused(page, origin):
    assert page.post("/api/start", {"seed": 1, "class": None}, Origin=origin).status_code == 403
    assert page.get("/api/session", Origin=origin).status_code == 403


def test_a_change_without_an_origin_is_refused(page):
    assert page.post("/api/start", {"seed": 1, "class": None}, Origin=None).status_code == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_the_browser_calls_another_site_is_refused(page, site):
    assert page.get("/api/session", Sec_Fetch_Site=site).status_code == 403
    assert page.get("/api/session", Sec_Fetch_Site="same-origin").status_code == 200


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_what_a_form_can_send_is_refused(page, kind):
    assert page.post("/api/start", {"seed": 1, "class": None}, Content_Type=kind).status_code == 415


def test_bodies_are_bounded_before_they_are_read(page):
    assert page.post("/api/start", b"1" * (MAX_BODY_BYTES + 1)).status_code == 413


@pytest.mark.parametrize("length, status", [("9" * 16, 413), ("9" * 4000, 413), ("-1", 411),
                                            ("", 411), ("\u0661", 411)])
def test_a_body_has_a_length_that_can_be_believed(page, length, status):
    environ = EnvironBuilder("/api/start", method="POST").get_environ()
    environ |= {"HTTP_HOST": HOST, "HTTP_ORIGIN": ORIGIN, "HTTP_X_SSN_TOKEN": TOKEN, "CONTENT_LENGTH": length,
                "CONTENT_TYPE": "application/json"}
    assert page.client.application.guard.refuse(environ).status == status


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH"])
def test_other_methods_are_refused(page, method):
    for path in ("/", "/api/session"):
        answer = page.client.open(path, method=method, headers={"Host": HOST, "X-SSN-Token": TOKEN})
        assert answer.status_code == 405


@pytest.mark.parametrize("path", ["/../guard.py", "/%2e%2e/guard.py", "/static/app.js", "/app.js/",
                                  "/etc/passwd", "/api/image/../../x", "/api/image/s9", "/api/seed/-1", "/api/seed/1.5",
                                  "/api/seed/99999999999", "/api/", "/api/sessions", "/api/session/x"])
def test_a_request_names_no_file(page, path):
    assert page.get(path).status_code in (400, 404)


def test_every_answer_forbids_foreign_scripts_guessing_referrers_and_frames(page):
    answers = [page.get("/"), page.get("/api/session"), page.get("/nothing"), page.get("/", Host="example.com"),
               page.post("/api/start", {"seed": "x", "class": None})]
    for answer in answers:
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'self';") and "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy and "base-uri 'none'" in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert not [name for name, _ in answer.headers if name.startswith("Access-Control")]


def test_the_page_has_nothing_inline_that_the_policy_would_have_to_allow(page):
    text = page.get("/").text
    assert "<style" not in text and " style=" not in text and "<script>" not in text
    assert not [word for word in (" onclick", " onload", "javascript:", "http:", "https:") if word in text]


@pytest.mark.parametrize("body", [
    b"", b"[]", b"{", b'{"seed": 1, "seed": 2}', b'{"seed": NaN}', b"\xff", b'"x"', b"[" * 100_000, b'{"seed": 1}',
    b'{"seed": true, "class": null}', b'{"seed": -1, "class": null}', b'{"seed": 4294967296, "class": null}',
    b'{"seed": {"a": 1}, "class": null}', b'{"seed": 1, "class": "cat"}', b'{"seed": 1, "class": null, "x": 1}',
])
def test_a_body_that_the_page_would_not_send_is_one_line(page, studio, body):
    states = len(studio.session.states)
    answer = page.post("/api/start", body)
    assert answer.status_code in (400, 411) and "\n" not in answer.json["error"]
    assert len(studio.session.states) == states


@pytest.mark.parametrize("wrong", [
    {"blocks": [[9, 9]]}, {"blocks": []}, {"blocks": "all"}, {"grid": [3, 3]}, {"layers": [5, 0]}, {"layers": [0, 99]},
    {"noise": 1}, {"feather": -1}, {"feather": 10**9}, {"transplant_from": -1}, {"mask": "x"}, {"more": 1},
])
def test_a_request_that_the_page_would_not_send_is_one_line(page, wrong):
    state = page.post("/api/start", {"seed": 1, "class": None}).json["current"]
    body = {"state": state, "request": REQUEST | wrong, "first": 1, "count": 1}
    answer = page.post("/api/variants", body)
    assert answer.status_code == 400 and "\n" not in answer.json["error"]


def test_the_images_of_a_session_cannot_be_had_with_the_token_of_another(studio):
    page, other = Page(studio), new_token()
    page.post("/api/start", {"seed": 1, "class": None})
    assert page.get("/api/image/s1").status_code == 200
    assert page.get("/api/image/s1", X_SSN_Token=other).status_code == 403


def test_tokens_are_long_and_different():
    tokens = {new_token() for _ in range(50)}
    assert len(tokens) == 50 and min(map(len, tokens)) >= 43


def test_port_80_is_also_left_out_by_browsers():
    assert allowed_hosts(["::1", "Me"], 80) == {"[::1]:80", "[::1]", "me:80", "me"}
    assert allowed_hosts(["me"], 8080) == {"me:8080"}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_an_address_that_no_browser_can_name_is_refused(host):
    with pytest.raises(ValueError, match="--host must be the address"):
        check_host(host)


def test_the_server_listens_on_this_machine_only_and_a_taken_port_is_one_line(studio):
    server = EditorServer(studio)
    try:
        assert server.host == "127.0.0.1" and server.url == f"http://127.0.0.1:{server.port}/#{server.token}"
        with pytest.raises(OSError, match=rf"127.0.0.1:{server.port} is taken by another program"):
            EditorServer(studio, port=server.port)
        with (pytest.raises(OSError, match="is taken by another program"),
              launch.open_editor("no-such-network.pkl", "127.0.0.1", server.port)):
            pass
    finally:
        server.close()
