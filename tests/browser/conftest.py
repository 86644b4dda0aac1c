"""A real Chromium and a real server. A test also fails if a page reports an error or requests another origin."""

import os
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

#: Console messages that tests cause on purpose: refused plans, a form that is too large, no network.
EXPECTED = (
    "Failed to load resource: the server responded with a status of 422",
    "Failed to load resource: the server responded with a status of 413",
    "Failed to load resource: net::ERR_INTERNET_DISCONNECTED",
)

ARTIFACTS = Path(__file__).parent.parent.parent / "artifacts"


def pytest_collection_modifyitems(items):
    here = f"{Path(__file__).parent}{os.sep}"
    for item in items:
        if str(item.path).startswith(here):  # Path.parents takes a second for all tests
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def browser():
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not path:
        pytest.fail("no Chromium: install Debian's chromium, or name one in CHROMIUM")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def context_of(browser, origin):
    """Return a function that gives the context of some options: pages of a context share its cache of scripts."""
    contexts = {}

    def context(**options):
        key = repr(sorted(options.items()))
        if key not in contexts:
            contexts[key] = browser.new_context(base_url=origin, **options)
            contexts[key].set_default_timeout(120_000)  # a busy machine is slow
        return contexts[key]

    yield context
    for opened in contexts.values():
        opened.close()


@pytest.fixture
def open_page(context_of, origin):
    """Return a function that opens a page at an address; the test fails if any page reports an error."""
    pages, errors = [], []

    def watch(page):
        page.on(
            "console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: None if _is_local(request.url, origin) else errors.append(request.url))
        return page

    def open_(address="/", **options):
        page = watch(context_of(**{"viewport": {"width": 1440, "height": 900}, **options}).new_page())
        pages.append(page)
        page.goto(address)
        return page

    yield open_
    for page in pages:
        page.close()
        page.context.set_offline(False)
    assert [error for error in errors if not error.startswith(EXPECTED)] == []


def _is_local(url, origin):
    return url.startswith((f"{origin}/", "data:", "blob:"))


@pytest.fixture(scope="session")
def artifacts():
    ARTIFACTS.mkdir(exist_ok=True)
    return ARTIFACTS
