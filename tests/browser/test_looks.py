"""Pages anyone can use: no axe violation, nothing wider than the screen, and pictures for people to look at."""

import pytest
from axe_playwright_python.sync_playwright import Axe

PAGES = {
    "plan": "/",
    "plan-wrong": "/?r=0&sequence_length=abc",
    "plan-refused": "/?method=prefix",
    "plan-too-large": "/?model=meta-llama/Llama-3.1-70B",
    "docs": "/docs",
}
SCHEMES = ["light", "dark"]
WIDTHS = [1440, 768, 375]


def drawn(page):
    if page.locator(".chart-canvas").count():
        page.wait_for_selector(".chart-canvas[data-drawn]")


def unfolded(page):
    page.evaluate("() => { for (const fold of document.querySelectorAll('details')) fold.open = true; }")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_no_violation(opened, name, scheme):
    page = opened(PAGES[name], color_scheme=scheme, reduced_motion="reduce")
    drawn(page)
    unfolded(page)
    told = Axe().run(page).response["violations"]
    assert [(violation["id"], [node["target"] for node in violation["nodes"]][:3]) for violation in told] == []


@pytest.mark.parametrize("width", [320, 375, 768, 1024])
@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_wider_than_the_screen(opened, name, width):
    page = opened(PAGES[name], viewport={"width": width, "height": 800})
    drawn(page)
    unfolded(page)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width


def test_the_first_view_does_not_jump_as_it_loads(opened):
    page = opened()
    drawn(page)
    shift = """() => new Promise((resolve) => {
      let sum = 0;
      new PerformanceObserver((list) => { for (const entry of list.getEntries()) sum += entry.value; })
        .observe({ type: "layout-shift", buffered: true });
      setTimeout(() => resolve(sum), 300);
    })"""
    assert page.evaluate(shift) < 0.02


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_component_has_one_colour_in_bars_and_chart(opened, scheme):
    page = opened(color_scheme=scheme)
    drawn(page)
    swatch = page.locator(".legend .fill-base_weights").first.evaluate("element => getComputedStyle(element).fill")
    bar = page.locator(".chart-canvas .trace.bars .point path").first.evaluate(
        "element => getComputedStyle(element).fill"
    )
    assert bar == swatch


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", PAGES)
def test_a_picture_is_kept(opened, artefacts, name, scheme, width):
    page = opened(PAGES[name], color_scheme=scheme, viewport={"width": width, "height": 900})
    drawn(page)
    file = artefacts / f"{name}-{scheme}-{width}.png"
    page.screenshot(path=file, full_page=True)
    assert file.stat().st_size > 10_000
