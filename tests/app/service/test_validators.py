"""Catalogues and pages have an ETag, and a client that has one is answered 304 without a computation."""

import pytest

from app.service import validators

PAGES = {"/models": "no-cache", "/api/v1/gpus": "public, max-age=300", "/api/v1/models/gpt2": "public, max-age=300"}


@pytest.mark.parametrize("address", PAGES)
def test_a_response_with_a_tag_is_not_sent_again(client_of, address):
    client = client_of()
    first = client.get(address)
    assert (first.status_code, first.headers["cache-control"]) == (200, PAGES[address])
    tag = first.headers["etag"]
    for given in (tag, f'"other", {tag}', tag.removeprefix("W/")):
        again = client.get(address, headers={"If-None-Match": given})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert client.get(address, headers={"If-None-Match": '"other"'}).status_code == 200
    assert client.head(address).headers["etag"] == tag


def test_a_tag_follows_from_the_address_and_the_installed_files(client_of, monkeypatch):
    client = client_of()
    tags = [client.get(address).headers["etag"] for address in ("/models", "/models?q=llama")]
    monkeypatch.setattr(validators, "installed", lambda: "a newer release")
    assert len({*tags, client.get("/models").headers["etag"]}) == 3


def test_errors_and_the_states_of_the_service_are_not_kept(client_of):
    client = client_of()
    for address in ("/nowhere", "/api/v1/models/none", "/healthz", "/readyz", "/metrics"):
        response = client.get(address)
        assert (response.headers["cache-control"], "etag" in response.headers) == ("no-store", False)
