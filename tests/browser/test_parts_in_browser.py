"""A page in parts: without scripts it shows its parts; with them it ends as the whole page does, and updates."""

from threading import Event

import pytest

from app.pages.estimate import parts
from tests.browser.journeys import after_update, verdict

ADDRESS = "/?model=gpt2&method=lora&reserved=rule"


@pytest.fixture(autouse=True)
def _in_parts(app):
    before = app.state.whole_page_seconds
    app.state.whole_page_seconds = 0
    yield
    app.state.whole_page_seconds = before


def pending(page):
    """The announcements of further parts that are visible."""
    return [part for part in page.locator(".pending").all() if part.is_visible()]


@pytest.mark.parametrize(
    "options", [{}, {"viewport": {"width": 340, "height": 700}, "color_scheme": "dark"}], ids=["wide", "narrow"]
)
def test_without_scripts_the_parts_are_shown(open_page, options):
    page = open_page(ADDRESS, java_script_enabled=False, **options)
    assert verdict(page) == "Fits"
    assert page.locator("#cards-title").is_visible()
    assert page.locator("[data-live=method-lora]").inner_text() == ""
    assert page.title().startswith("LoRA on gpt2")
    assert page.locator(".pending").count() > 0
    assert pending(page) == []


def test_scripts_complete_the_form_and_the_title_now_and_after_each_change(open_page):
    page = open_page(ADDRESS)
    assert page.title().startswith("Fits: LoRA on")
    before = page.locator("[data-live=method-lora]").inner_text()
    assert "GiB" in before
    after_update(page, lambda: page.locator("#method-full").check())
    assert page.title().startswith("Fits: Full fine-tuning on")
    assert "GiB" in page.locator("[data-live=method-full]").inner_text()
    assert page.locator(".pending, template[data-late]").count() == 0


def test_parts_of_the_page_are_announced_until_they_arrive(open_page, monkeypatch):
    """Chromium does not match :last-child in a document that is still arriving."""
    computed = Event()

    def waits(*arguments):
        assert computed.wait(120)
        yield from parts_of(*arguments)

    parts_of, page = parts.answer, open_page("/docs")
    monkeypatch.setattr(parts, "answer", waits)
    page.goto(ADDRESS, wait_until="commit")
    page.locator(".pending").wait_for()
    assert page.locator("form#plan").is_visible()
    assert page.locator("#verdict").count() == 0
    computed.set()
    page.locator("#notes-title").wait_for()
    assert pending(page) == []
