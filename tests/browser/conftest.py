"""A real Chromium before a real server; a test fails too where a page meets an error or asks another origin."""

import os
import shutil
import threading
import time
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import sync_playwright

from app.application import application

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

#: Chromium's own words for what tests bring about: pages of plans without an answer, too large a form, no network.
EXPECTED = (
    "Failed to load resource: the server responded with a status of 422",
    "Failed to load resource: the server responded with a status of 413",
    "Failed to load resource: net::ERR_INTERNET_DISCONNECTED",
)

ARTEFACTS = Path(__file__).parent.parent.parent / "artefacts"


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def origin():
    """The address of a server that runs as long as the tests."""
    server = uvicorn.Server(uvicorn.Config(application(), host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 30
    while not server.started:
        assert time.monotonic() < until, "the server did not start"
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="session")
def browser():
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not path:
        pytest.fail("no Chromium: install Debian's chromium, or name one in CHROMIUM")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def opened(browser, origin):
    """Opens pages at given addresses, and looks at the end that none of them met an error."""
    contexts, met = [], []

    def watched(page):
        page.on("console", lambda message: met.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: met.append(str(error)))
        page.on("request", lambda request: None if _own(request.url, origin) else met.append(request.url))
        return page

    def open_(address="/", **options):
        context = browser.new_context(base_url=origin, **{"viewport": {"width": 1440, "height": 900}, **options})
        context.set_default_timeout(10_000)
        contexts.append(context)
        page = watched(context.new_page())
        page.goto(address)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert [told for told in met if not told.startswith(EXPECTED)] == []


def _own(url, origin):
    return url.startswith((f"{origin}/", "data:", "blob:"))


@pytest.fixture(scope="session")
def artefacts():
    ARTEFACTS.mkdir(exist_ok=True)
    return ARTEFACTS
