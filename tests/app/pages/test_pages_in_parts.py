"""Pages whose answer takes long are sent in parts: what a reader sees early, and what errors do after that."""

import re
from threading import Event
from time import monotonic
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from fastapi.testclient import TestClient

from app.application import application
from app.pages.estimate import view
from app.service.served import serviced
from app.service.settings import ServiceSettings
from calculator.common.budget import OverBudgetError, check_budget
from calculator.common.errors import PlanError, Problem
from calculator.methods import USUAL_METHODS
from calculator.planning import plan
from tests.serving import served

#: How long to wait for what happens at once, in seconds, however busy the machine is.
PATIENCE = 60

OOM = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.63 GiB of which 1.00 GiB is free. "
    "Including non-PyTorch memory, this process has 6.50 GiB memory in use. Of the allocated memory 6.00 GiB is "
    "allocated by PyTorch, and 100.00 MiB is reserved by PyTorch but unallocated."
)

PAGES = {
    "/": {"model": "gpt2", "reserved": "rule"},
    "/plan": {"model": "gpt2", "gpus": "rtx-4060", "reserved": "rule"},
    "/limits": {"model": "gpt2", "reserved": "rule"},
    "/run": {"model": "gpt2", "reserved": "rule"},
    "/difference": {"plan": ["/?model=gpt2&reserved=rule", "/?model=gpt2&reserved=rule&r=4"]},
    "/diagnose": {"model": "gpt2", "message": OOM},
    "/import": {"content": "base_model: gpt2\nadapter: lora\nmicro_batch_size: 1\nsequence_len: 512"},
}

WRONG = {
    "/": {"model": "gpt2", "gpu": "none"},
    "/plan": {"model": "none"},
    "/limits": {"model": "none"},
    "/run": {"model": "gpt2", "save_steps": "x"},
    "/difference": {"plan": ["/x", "/"]},
    "/diagnose": {"message": "no error"},
    "/import": {"content": "x"},
}


@pytest.fixture(scope="module")
def hasty():
    """An application that waits for no answer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WHOLE_PAGE_MILLISECONDS", "0")
        return application()


@pytest.fixture
def parted(hasty):
    return TestClient(hasty, raise_server_exceptions=False)


def sections(text):
    """The titles of an answer's sections, in order."""
    return re.findall(r'<section[^>]*aria-labelledby="([\w-]+)"', text.partition("</form>")[2] or text)


@pytest.mark.parametrize("path", PAGES)
def test_a_page_in_parts_has_what_the_whole_page_has(client, parted, path):
    whole, shown = client.get(path, params=PAGES[path]), parted.get(path, params=PAGES[path])
    assert (whole.status_code, shown.status_code) == (200, 200)
    late = re.search(r'<template data-late data-title="([^"]*)">.*?</template>', shown.text, re.DOTALL)
    assert f"<title>{late[1]}</title>" in whole.text
    assert sections(shown.text.replace(late[0], "")) == sections(whole.text)
    assert shown.text.rstrip().endswith("</html>")
    assert shown.text.count('class="pending"') >= 1


def test_the_end_of_an_estimate_has_the_figures_of_its_form(parted):
    form, _, late = parted.get("/", params=PAGES["/"]).text.partition("<template data-late")
    assert re.findall(r'data-live="method-(\w+)"', late) == [*USUAL_METHODS]
    assert 'class="choice-answer" data-live="method-lora"' in form


@pytest.mark.parametrize("path", WRONG)
def test_an_invalid_request_is_refused_without_parts(parted, path):
    response = parted.get(path, params=WRONG[path])
    assert response.status_code == 422
    assert 'class="card refusal"' in response.text
    assert "data-late" not in response.text


def test_a_page_in_parts_is_not_revalidated_since_it_may_end_with_a_problem(hasty):
    service = TestClient(serviced(hasty, ServiceSettings(access_log=False)))
    response = service.get("/", params=PAGES["/"])
    assert response.headers["cache-control"] == "no-cache"
    assert "etag" not in response.headers
    assert service.head("/", params=PAGES["/"]).content == b""


def test_links_of_parts_start_with_the_root_path(hasty):
    text = TestClient(hasty, root_path="/below").get("/", params=PAGES["/"]).text
    assert len(re.findall(r' href="/below/', text)) > 50
    assert not re.findall(r' (?:href|src)="/(?!below/)', text)


def test_the_page_before_the_answer_arrives_while_it_is_computed(hasty, monkeypatch):
    computed = Event()

    def waits(*arguments):
        assert computed.wait(PATIENCE)
        return plan._device_plan(*arguments)

    monkeypatch.setattr("app.pages.plan.routes.device_plans", lambda request: (waits(*pair) for pair in pairs(request)))
    with served(hasty) as origin, urlopen(f"{origin}/plan?{urlencode(PAGES['/plan'])}", timeout=PATIENCE) as response:
        early = b""
        while b"pending" not in early:
            early += response.read1()
        assert b"</form>" in early
        assert b"<section" not in early
        computed.set()
        assert b'id="plan-2"' in response.read()


def pairs(request):
    return [(request, (0, request.models[0]), device) for device in enumerate(request.devices)]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PlanError(Problem(loc="training.optimizer", msg="was refused late")), "was refused late"),
        (OverBudgetError(2), "more than 2 seconds of CPU time"),
        (RuntimeError("a fault for the test"), "an error in Headroom itself"),
    ],
    ids=("refused", "over the budget", "a fault"),
)
def test_an_error_after_the_first_part_is_stated_in_its_place(parted, monkeypatch, caplog, error, message):
    def fails(*_):
        raise error

    monkeypatch.setattr(view, "suggested", fails)
    response = parted.get("/", params={"model": "gpt2"})
    shown = sections(response.text)
    assert response.status_code == 200
    assert [*shown[1:2], shown[-1]] == ["verdict-title", "refusal-title"]
    assert message in response.text.partition("refusal-title")[2]
    assert response.text.rstrip().endswith("</html>")
    assert "a fault for the test" not in response.text
    assert ("a fault for the test" in caplog.text) == isinstance(error, RuntimeError)


def test_the_computation_ends_when_the_client_leaves(hasty, monkeypatch):
    begun, ended = Event(), Event()

    def endless(*_):
        begun.set()
        until = monotonic() + PATIENCE
        try:
            while monotonic() < until:
                check_budget()
        except OverBudgetError:
            ended.set()
            raise

    monkeypatch.setattr(view, "suggested", endless)
    with served(hasty) as origin:
        with urlopen(f"{origin}/?{urlencode(PAGES['/'])}", timeout=PATIENCE):
            assert begun.wait(PATIENCE)
        assert ended.wait(PATIENCE)
