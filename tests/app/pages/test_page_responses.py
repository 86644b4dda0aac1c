"""Headers, links and size of pages, and how an error of Headroom itself is answered."""

import re
from html import unescape

import pytest

from tests.app.pages.test_wrong_input import WRONG


def test_the_first_page_is_small(client):
    response = client.get("/", headers={"accept-encoding": "gzip"})
    assert response.headers["content-encoding"] == "gzip"
    links = re.findall(r'(?:href|src)="(/static/[^"]+)"', response.text)
    first = [int(client.head(link, headers={"accept-encoding": "gzip"}).headers["content-length"]) for link in links]
    assert len(links) >= 4
    assert int(response.headers["content-length"]) + sum(first) < 200_000


def test_a_static_file_with_its_version_is_cached_for_good(client):
    link = re.search(r'href="(/static/style\.css\?v=[^"]+)"', client.get("/").text)[1]
    assert "immutable" in client.get(link).headers["cache-control"]
    assert client.get("/static/style.css").headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("path", ["/", "/docs", "/nothing", "/api/v1/gpus", "/api/v1/nothing", "/static/app.js"])
def test_every_answer_has_the_security_headers(client, path):
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/", "/docs", WRONG, "/nothing"])
def test_no_page_loads_anything_from_another_server(client, path):
    text = client.get(path).text
    assert re.findall(r'(?:src|srcset|action|formaction)="(?:https?:)?//', text) == []
    assert re.findall(r"<link[^>]+href=\"(?:https?:)?//", text) == []
    assert re.findall(r"\sstyle=|<style|\son[a-z]+=\"", text) == []


def test_the_documentation_lists_every_operation_and_problem(client):
    """Swagger UI shows the rest, from the document."""
    text = client.get("/docs").text
    operations = re.findall(r'<span class="verb">(\w+)</span> <code>(\S+)</code> (.+)</li>', text)
    document = client.get("/api/v1/openapi.json").json()
    assert [(verb, path, unescape(summary)) for verb, path, summary in operations] == [
        (verb.upper(), path, operation["summary"])
        for path, verbs in document["paths"].items()
        for verb, operation in verbs.items()
    ]
    assert 'id="problem-invalid-request"' in text


def test_an_internal_error_is_answered_and_logged(client, monkeypatch, caplog):
    def broken(_):
        raise RuntimeError("a fault for the test")

    monkeypatch.setattr("app.pages.estimate.routes.read", broken)
    monkeypatch.setattr("app.pages.estimate.routes.read_strictly", broken)
    for address, kind in (("/", "text/html; charset=utf-8"), ("/estimate.json", "application/problem+json")):
        caplog.clear()
        response = client.get(address)
        assert (response.status_code, response.headers["content-type"]) == (500, kind)
        assert "an error in Headroom itself" in response.text
        assert "a fault for the test" not in response.text
        assert "nosniff" in response.headers["x-content-type-options"]
        assert "a fault for the test" in caplog.text
