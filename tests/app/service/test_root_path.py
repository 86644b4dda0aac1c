"""Behind a proxy that strips a path, every address of the site starts with that path."""

import re
from html import unescape

import pytest

ROOT = "/tools/headroom"
PLAN = "model=meta-llama/Llama-3.2-1B&reserved=rule"


@pytest.fixture
def behind(client_of):
    """A client that sends what a server behind such a proxy receives."""
    client = client_of(root_path=ROOT)
    return lambda path, **options: client.get(f"{ROOT}{path}", follow_redirects=False, **options)


def addresses(text):
    return {
        unescape(address)
        for address in re.findall(r'\s(?:href|src|action|formaction|data-[a-z-]+)="([^"]*)"', text)
        if address.startswith("/")
    }


@pytest.mark.parametrize("path", [f"/?{PLAN}", f"/limits?{PLAN}", "/models?q=llama", "/docs", "/lesson", "/inference"])
def test_every_address_of_a_page_starts_with_the_path(behind, path):
    found = addresses(behind(path).text)
    assert len(found) > 8
    assert [address for address in found if not address.startswith(f"{ROOT}/")] == []


def test_the_addresses_on_a_page_exist(behind):
    found = addresses(behind("/models?q=bart").text)
    followed = [address for address in found if "/static/" in address or address.count("/") < 5]
    assert {behind(address.removeprefix(ROOT)).status_code for address in followed if "/?" not in address} == {200}


def test_scripts_send_forms_to_the_address_of_the_form(behind):
    assert f'action="{ROOT}/"' in behind(f"/?{PLAN}").text
    script = behind("/static/app.js").text
    assert 'fetch("/' not in script
    assert "fetch(`/" not in script


def test_the_openapi_document_names_the_path_as_its_server(behind, client_of):
    assert behind("/openapi.json").json()["servers"] == [{"url": ROOT}]
    assert client_of().get("/openapi.json").json()["servers"] == [{"url": "/"}]


def test_problems_and_redirects_have_the_path(behind, client_of, run):
    assert behind("/api/v1/nothing").json()["type"] == f"{ROOT}/docs#problem-not-found"
    client = client_of(root_path=ROOT)
    redirect = client.post(f"{ROOT}/", data={"model": "gpt2"}, follow_redirects=False)
    assert redirect.headers["location"].startswith(f"{ROOT}/?model=gpt2")
    assert client.post(f"{ROOT}/api/v1/estimate", json=run).status_code == 200


def test_plans_are_compared_by_their_links_behind_the_path(behind):
    plans = [f"https://example.org{ROOT}/?{PLAN}", f"{ROOT}/?{PLAN}&r=64"]
    assert behind("/difference.json", params={"plan": plans}).status_code == 200
