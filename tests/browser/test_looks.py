"""The look of every page: accessibility by axe, no page wider than the screen, and screenshots for review."""

import pytest
from axe_playwright_python.sync_playwright import Axe

PAGES = {
    "plan": "/",
    "plan-wrong": "/?r=0&sequence_length=abc",
    "plan-refused": "/?method=prefix",
    "plan-file": "/import?content=base_model%3A+gpt2%0Aadapter%3A+lora%0Aplugins%3A+%5Bliger%5D",
    "plan-file-wrong": "/import?r=32&content=foo%3A+%5Bbar",
    "plan-too-large": "/?model=meta-llama/Llama-3.1-70B",
    "needs": "/plan?tasks=20&switch_per_request=true&gpu=l40s",
    "needs-nothing": "/plan?model=meta-llama/Llama-3.1-70B",
    "needs-wrong": "/plan?must_merge=true&frozen_base=true",
    "limits": "/limits",
    "inference": "/inference?tasks=20&batch_size=4",
    "inference-merged": "/inference?method=qlora&merged=true&gpu=rtx-4060",
    "inference-wrong": "/inference?method=adapter&merged=true&batch_size=0",
    "difference": "/difference?plan=%2F&plan=%2F%3Fr%3D32%26micro_batch_size%3D4&plan=%2F%3Fmethod%3Dlora",
    "difference-wrong": "/difference?plan=%2F&plan=%2F%3Fr%3D0",
    "docs": "/docs",
    "validation": "/validation",
    "lesson": "/lesson",
    "lesson-full": "/lesson/full",
    "lesson-lora": "/lesson/lora",
    "lesson-wrong": "/lesson/lora?count-r=0&forward-A=abc",
    "lesson-rank": "/lesson/rank",
    "lesson-quantisation": "/lesson/quantisation",
    "lesson-qlora": "/lesson/qlora",
    "lesson-merging": "/lesson/merging",
    "lesson-adapters": "/lesson/adapters",
    "lesson-prefix": "/lesson/prefix",
    "lesson-prompt": "/lesson/prompt",
    "lesson-comparison": "/lesson/comparison",
    "lesson-exercises": "/lesson/exercises",
}
SCHEMES = ["light", "dark"]
WIDTHS = [1440, 768, 375]


def wait_for_charts(page):
    """Wait until every chart is drawn and the limits have loaded."""
    page.wait_for_function("() => !document.querySelector('.chart-canvas:not([data-drawn]), [data-limits][aria-busy]')")


def wait_for_chart_width(page):
    """Wait until every visible chart is as wide as its box; Plotly redraws a while after the width changes."""
    page.wait_for_function("""() => [...document.querySelectorAll('.chart-canvas')].every((canvas) =>
      !canvas.clientWidth || Math.abs(canvas.querySelector('.main-svg').clientWidth - canvas.clientWidth) <= 1)""")


def open_folds(page):
    page.evaluate("() => { for (const fold of document.querySelectorAll('details')) fold.open = true; }")


@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_no_violation_in_either_scheme(open_page, name):
    page = open_page(PAGES[name], reduced_motion="reduce")
    wait_for_charts(page)
    open_folds(page)
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        violations = Axe().run(page).response["violations"]
        assert [
            (violation["id"], [node["target"] for node in violation["nodes"]][:3]) for violation in violations
        ] == []


def test_axe_finds_no_violation_when_the_server_is_lost(open_page):
    page = open_page(reduced_motion="reduce")
    wait_for_charts(page)
    page.context.set_offline(True)
    page.locator("#method-full").check()
    page.locator("#unanswered").wait_for()
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        violations = Axe().run(page).response["violations"]
        assert [
            (violation["id"], [node["target"] for node in violation["nodes"]][:3]) for violation in violations
        ] == []


@pytest.mark.parametrize("name", PAGES)
def test_no_page_is_wider_than_the_screen_even_before_charts_are_redrawn(open_page, name):
    page = open_page(PAGES[name], viewport={"width": 320, "height": 800})
    wait_for_charts(page)
    open_folds(page)
    for width in (320, 375, 768, 1024):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width
        wait_for_chart_width(page)
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width


#: Pages with formulas.
LESSONS = [
    name for name in PAGES if name.startswith("lesson") and name not in ("lesson-comparison", "lesson-exercises")
]


def test_formulas_use_the_bundled_font(open_page):
    page = open_page("/lesson/qlora")
    page.evaluate("() => document.fonts.ready")
    loaded = "() => [...document.fonts].filter((font) => font.status === 'loaded').map((font) => font.family)"
    assert page.evaluate(loaded) == ["Headroom Math"]


SET_FAMILY = """(family) => {
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(`math { font-family: ${family}; }`);
  document.adoptedStyleSheets = [sheet];
  return getComputedStyle(document.querySelector("math")).fontFamily;
}"""


@pytest.mark.parametrize("name", LESSONS)
def test_no_formula_widens_the_page_in_a_system_font(open_page, name):
    page = open_page(PAGES[name], viewport={"width": 320, "height": 800})
    wait_for_charts(page)
    open_folds(page)
    for family in ("math", "serif", "monospace"):
        assert page.evaluate(SET_FAMILY, family) == family
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 320


CUT_LABELS = """() => [...document.querySelectorAll('.chart-canvas text')].filter((text) => {
  const word = text.getBoundingClientRect(), place = text.closest('.chart-canvas').getBoundingClientRect();
  return word.left < place.left - 1 || word.right > place.right + 1;
}).map((text) => text.textContent)"""


@pytest.mark.parametrize("gpu", ["rtx-4090", "h100-sxm5-80gb", "mi250x"])
def test_no_label_of_a_chart_is_cut_on_a_phone(open_page, gpu):
    page = open_page(f"/?gpu={gpu}", viewport={"width": 320, "height": 800})
    wait_for_charts(page)
    assert page.evaluate(CUT_LABELS) == []


def test_the_first_page_does_not_shift_while_it_loads(open_page):
    page = open_page()
    wait_for_charts(page)
    shift = """() => new Promise((resolve) => {
      let sum = 0;
      new PerformanceObserver((list) => { for (const entry of list.getEntries()) sum += entry.value; })
        .observe({ type: "layout-shift", buffered: true });
      setTimeout(() => resolve(sum), 300);
    })"""
    assert page.evaluate(shift) < 0.02


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_component_has_one_colour_in_bars_and_chart(open_page, scheme):
    page = open_page(color_scheme=scheme)
    wait_for_charts(page)
    swatch = page.locator(".legend .fill-base_weights").first.evaluate("element => getComputedStyle(element).fill")
    bar = page.locator(".chart-canvas .trace.bars .point path").first.evaluate(
        "element => getComputedStyle(element).fill"
    )
    assert bar == swatch


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_screenshots_are_kept_for_review(open_page, artefacts, name, width):
    page = open_page(PAGES[name], viewport={"width": width, "height": 900})
    wait_for_charts(page)
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        page.wait_for_timeout(100)
        file = artefacts / f"{name}-{scheme}-{width}.png"
        page.screenshot(path=file, full_page=True)
        assert file.stat().st_size > 10_000
