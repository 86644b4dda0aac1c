"""The look of every page: accessibility by axe, no page wider than the screen, and a screenshot for review."""

from urllib.parse import urlencode

import pytest
from axe_playwright_python.sync_playwright import Axe

MESSAGE = (
    "CUDA out of memory. Tried to allocate 384.00 MiB (GPU 0; 15.90 GiB total capacity; 14.75 GiB already allocated;"
    " 225.81 MiB free; 14.81 GiB reserved in total by PyTorch)"
)
DIAGNOSED = {"model": "gpt2", "method": "full", "dtype": "float32", "attention": "eager", "micro_batch_size": 8}

PAGES = {
    "plan": "/",
    "plan-wrong": "/?r=0&sequence_length=abc",
    "plan-refused": "/?method=prefix",
    "plan-file": "/import?content=base_model%3A+gpt2%0Aadapter%3A+lora%0Aplugins%3A+%5Bliger%5D",
    "plan-file-wrong": "/import?r=32&content=foo%3A+%5Bbar",
    "plan-too-large": "/?model=meta-llama/Llama-3.1-70B&reserved=rule",
    "needs": "/plan?tasks=20&switch_per_request=true&gpu=l40s&reserved=rule",
    "needs-nothing": "/plan?model=meta-llama/Llama-3.1-70B&reserved=rule",
    "needs-wrong": "/plan?must_merge=true&frozen_base=true",
    "limits": "/limits",
    "run": "/run?model=gpt2&method=lora&gpu=rtx-4060&reserved=rule&compute_metrics=true&merge_and_unload=true",
    "run-wrong": "/run?model=gpt2&method=prompt&reserved=rule&eval_samples=none",
    "inference": "/inference?tasks=20&batch_size=4&reserved=rule",
    "inference-merged": "/inference?method=qlora&merged=true&gpu=rtx-4060",
    "inference-wrong": "/inference?method=adapter&merged=true&batch_size=0",
    "difference": "/difference?plan=%2F&plan=%2F%3Fr%3D32%26micro_batch_size%3D4&plan=%2F%3Fmethod%3Dlora",
    "difference-wrong": "/difference?plan=%2F&plan=%2F%3Fr%3D0",
    "diagnose": f"/diagnose?{urlencode({'message': MESSAGE, **DIAGNOSED})}",
    "diagnose-wrong": "/diagnose?message=CUDA+out+of+memory.+Tried+to+allo",
    "cards": "/cards?q=rtx",
    "card": "/cards/rtx-4060?q=qwen&fits=all",
    "card-wrong": "/cards/rtx-4060?sort=size&sequence_length=long",
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
    "lesson-papers": "/lesson/papers",
}
SCHEMES = ["light", "dark"]

#: A plan that is quick to compute.
SMALL = "/?model=gpt2&reserved=rule"


def wait_for_charts(page):
    """Wait until every chart is drawn, and the limits and Swagger UI have loaded."""
    waiting = ".chart-canvas:not([data-drawn]), [data-limits][aria-busy], #swagger-ui[aria-busy]"
    page.wait_for_function(f"() => !document.querySelector('{waiting}')")


#: The window's width, and the width of each visible box and of the chart in it.
CHART_WIDTHS = """() => [innerWidth, ...[...document.querySelectorAll('.chart-canvas')]
  .filter((canvas) => canvas.clientWidth)
  .map((canvas) => [canvas.clientWidth, canvas.querySelector('.main-svg').clientWidth])]"""


def wait_for_chart_width(page):
    """Wait until every visible chart is as wide as its box; Plotly redraws a while after the width changes.

    On a busy machine, Chromium sometimes stops rendering frames of a page, and without frames no ResizeObserver is
    notified. A screenshot requests a frame.
    """
    for times in range(1, 1201):
        _, *charts = widths = page.evaluate(CHART_WIDTHS)
        if all(abs(box - chart) <= 1 for box, chart in charts):
            return
        if times % 50 == 0:
            page.screenshot()
        page.wait_for_timeout(100)
    pytest.fail(f"a chart is not as wide as its box: {widths}")


def open_folds(page):
    page.evaluate("() => { for (const fold of document.querySelectorAll('details')) fold.open = true; }")


SET_FAMILY = """(family) => {
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(`math { font-family: ${family}; }`);
  document.adoptedStyleSheets = [sheet];
  return getComputedStyle(document.querySelector("math")).fontFamily;
}"""

#: Pages with formulas.
LESSONS = [
    name
    for name in PAGES
    if name.startswith("lesson") and name not in ("lesson-comparison", "lesson-exercises", "lesson-papers")
]

#: One page of each kind of content, for the contrast of the dark colors.
DARK = (
    "diagnose",
    "plan-file-wrong",
    "plan-too-large",
    "needs",
    "inference-merged",
    "difference",
    "lesson-lora",
    "lesson-wrong",
)


#: Mark what has text or can be typed into, two elements of each look: its color, font, and what is behind it.
MARK_LOOKS = """() => {
  const looks = new Map();
  for (const element of document.body.querySelectorAll('*')) {
    delete element.dataset.look;
    const written = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
    if (!written && !element.matches('input, select, textarea') || element.closest('#swagger-ui')) continue;
    const { color, fontSize, fontWeight, display, visibility } = getComputedStyle(element);
    const look = [element.localName, color, fontSize, fontWeight, display, visibility];
    for (let place = element; place; place = place.parentElement) {
      const { backgroundColor, backgroundImage, opacity } = getComputedStyle(place);
      if (opacity !== '1' || backgroundImage !== 'none') look.push(opacity, backgroundImage);
      if (backgroundColor === 'rgba(0, 0, 0, 0)') continue;
      look.push(backgroundColor);
      if (!backgroundColor.startsWith('rgba')) break;
    }
    const seen = looks.get(look.join()) ?? 0;
    looks.set(look.join(), seen + 1);
    if (seen < 2) element.dataset.look = '';
  }
}"""


def violations(page):
    """The findings of axe, with the first elements of each kind. It compares colors only once a look: see `faint`."""
    return found_by_axe(page, {}, {"rules": {"color-contrast": {"enabled": False}}}) + faint(page)


def faint(page):
    """Texts with too little contrast, which takes axe most of its time. A table has few looks, and many rows."""
    page.evaluate(MARK_LOOKS)
    return found_by_axe(
        page, {"include": [["[data-look]"]]}, {"runOnly": {"type": "rule", "values": ["color-contrast"]}}
    )


def found_by_axe(page, context, options):
    """Swagger UI has its own markup: buttons within buttons, a second `main`. The page has a list without scripts."""
    context = {**context, "exclude": [["#swagger-ui"]]}
    found = Axe().run(page, context, options={"resultTypes": ["violations"], **options}).response["violations"]
    return [(violation["id"], [node["target"] for node in violation["nodes"]][:3]) for violation in found]


def assert_as_wide_as_the_screen(page, width):
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width


#: The boxes that scroll sideways, by the heading of their first column.
SCROLLED = """() => [...document.querySelectorAll('.scroll')]
  .filter((box) => box.scrollWidth > box.clientWidth + 1)
  .map((box) => box.querySelector('th').textContent)"""


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_every_screen_and_axe_finds_no_violation(open_page, artifacts, name):
    """One visit: each width, before and after charts are redrawn, other fonts for formulas, axe, and a screenshot."""
    page = open_page(PAGES[name], viewport={"width": 320, "height": 800}, reduced_motion="reduce")
    wait_for_charts(page)
    open_folds(page)
    for family in ("math", "serif", "monospace") if name in LESSONS else ():
        assert page.evaluate(SET_FAMILY, family) == family
        assert_as_wide_as_the_screen(page, 320)
    page.evaluate("() => { document.adoptedStyleSheets = []; }")
    for width in (320, 375, 768, 1024, 1440):
        page.set_viewport_size({"width": width, "height": 800})
        assert_as_wide_as_the_screen(page, width)
        wait_for_chart_width(page)
        assert_as_wide_as_the_screen(page, width)
    assert violations(page) == []
    if name in DARK:
        page.emulate_media(color_scheme="dark")
        assert faint(page) == []
    file = artifacts / f"{name}.png"
    page.screenshot(path=file, full_page=True)
    assert file.stat().st_size > 10_000


@pytest.mark.parametrize("name", ["plan-too-large", "limits", "run"])
def test_no_table_scrolls_sideways_on_a_laptop_or_tablet(open_page, name):
    page = open_page(PAGES[name], viewport={"width": 1440, "height": 900}, reduced_motion="reduce")
    page.wait_for_load_state("networkidle")
    open_folds(page)
    for width in (768, 1024, 1140, 1250, 1262, 1300, 1345):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate(SCROLLED) == [], width


#: The words of labels and of the first column of tables that are on two lines although they have no hyphen or slash.
BROKEN_WORDS = r"""() => [...document.querySelectorAll('label, .stacked tbody th')].flatMap((element) => {
  const found = [], texts = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    for (const word of texts.currentNode.data.matchAll(/[^\s\/-]+/g)) {
      const range = document.createRange();
      range.setStart(texts.currentNode, word.index);
      range.setEnd(texts.currentNode, word.index + word[0].length);
      if (new Set([...range.getClientRects()].map((line) => Math.round(line.top))).size > 1) found.push(word[0]);
    }
  }
  return found;
})"""


def test_no_word_of_a_label_or_of_a_change_is_broken(open_page):
    page = open_page(f"{PAGES['plan']}?reserved=rule", viewport={"width": 1440, "height": 900}, reduced_motion="reduce")
    page.wait_for_load_state("networkidle")
    open_folds(page)
    for width in (320, 480, 768, 1024, 1180, 1280, 1345, 1440, 1600):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate(BROKEN_WORDS) == [], width


def test_a_chart_follows_its_box_in_a_window_that_keeps_its_width(open_page):
    page = open_page("/validation")
    wait_for_charts(page)
    before = page.evaluate(CHART_WIDTHS)
    page.evaluate("() => { document.querySelector('main').style.width = '600px'; }")
    wait_for_chart_width(page)
    after = page.evaluate(CHART_WIDTHS)
    assert after[0] == before[0]
    assert after[1] != before[1]


def test_a_faint_text_in_one_cell_of_many_is_found(open_page):
    page = open_page("/lesson/rank")
    wait_for_charts(page)
    page.evaluate("() => { [...document.querySelectorAll('tbody td')].at(-1).style.color = 'rgb(128, 128, 128)'; }")
    ((rule, elements),) = faint(page)
    assert (rule, len(elements)) == ("color-contrast", 1)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_axe_finds_no_violation_when_the_server_is_lost(open_page, scheme):
    page = open_page(SMALL, reduced_motion="reduce", color_scheme=scheme)
    wait_for_charts(page)
    page.context.set_offline(True)
    page.locator("#method-full").check()
    page.locator("#unanswered").wait_for()
    assert violations(page) == []


def test_formulas_use_the_bundled_font(open_page):
    page = open_page("/lesson/qlora")
    page.evaluate("() => document.fonts.ready")
    loaded = "() => [...document.fonts].filter((font) => font.status === 'loaded').map((font) => font.family)"
    assert page.evaluate(loaded) == ["Headroom Math"]


CUT_LABELS = """() => [...document.querySelectorAll('.chart-canvas text')].filter((text) => {
  const word = text.getBoundingClientRect(), place = text.closest('.chart-canvas').getBoundingClientRect();
  return word.left < place.left - 1 || word.right > place.right + 1;
}).map((text) => text.textContent)"""


@pytest.mark.parametrize("gpu", ["rtx-4090", "h100-sxm5-80gb", "mi250x"])
def test_no_label_of_a_chart_is_cut_on_a_phone(open_page, gpu):
    page = open_page(f"{SMALL}&gpu={gpu}", viewport={"width": 320, "height": 800})
    wait_for_charts(page)
    assert page.evaluate(CUT_LABELS) == []


def test_the_reasons_of_an_interval_fit_a_phone(open_page):
    page = open_page("/?trainer=unsloth&autocast=bfloat16", viewport={"width": 320, "height": 800})
    assert page.locator(".interval-reasons li").count() == 3
    assert_as_wide_as_the_screen(page, 320)


def test_a_refusal_with_a_long_name_fits_a_phone(open_page):
    page = open_page("/?model=gpt2&method=full&unfrozen_parameters=h.3", viewport={"width": 320, "height": 800})
    assert "model.layers.0.mlp.down_proj.weight" in page.locator("#verdict").inner_text()
    assert_as_wide_as_the_screen(page, 320)


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
def test_a_component_has_one_color_in_bars_and_chart(open_page, scheme):
    page = open_page(SMALL, color_scheme=scheme)
    wait_for_charts(page)
    swatch = page.locator(".legend .fill-base_weights").first.evaluate("element => getComputedStyle(element).fill")
    bar = page.locator(".chart-canvas .trace.bars .point path").first.evaluate(
        "element => getComputedStyle(element).fill"
    )
    assert bar == swatch
