"""The plan, inference, validation and documentation pages in a browser."""

import re

import pytest

from tests.browser.journeys import NO_SCRIPTS


def test_the_documentation_sends_a_request(open_page):
    """Swagger UI works under the content security policy: the page fixture refuses messages of the console."""
    page = open_page("/docs")
    operation = page.locator("#operations-Plans-post_estimate_api_v1_estimate_post")
    operation.locator(".opblock-summary-control").click()
    operation.get_by_role("button", name="Try it out").click()
    operation.get_by_role("button", name="Execute").click()
    answer = operation.locator(".live-responses-table .response-col_description")
    answer.get_by_text('"peak_allocated_bytes"').first.wait_for()
    assert operation.locator(".live-responses-table .response-col_status").nth(1).inner_text().strip() == "200"


def test_without_scripts_the_documentation_lists_the_operations(open_page):
    page = open_page("/docs", **NO_SCRIPTS)
    assert page.locator("#swagger-ui").is_hidden()
    assert page.get_by_role("listitem").filter(has_text="/api/v1/estimate").first.is_visible()


def test_the_validation_report_draws_its_chart_and_opens_its_table(open_page):
    page = open_page()
    page.get_by_role("link", name="Validation").click()
    page.wait_for_selector(".chart-canvas[data-drawn] .scatterlayer .point")
    page.locator("details[data-fold=whole] summary").click()
    assert page.locator("details[open] tbody tr").first.is_visible()


def test_without_scripts_the_validation_report_has_its_tables(open_page):
    page = open_page("/validation", **NO_SCRIPTS)
    assert not page.locator(".chart").is_visible()
    page.locator("details[data-fold=whole] summary").click()
    assert page.locator("details[data-fold=whole] tbody tr").first.is_visible()
    assert page.get_by_role("heading", name="The largest errors, and why").is_visible()


def test_without_scripts_requirements_give_a_configuration_and_its_estimate(open_page):
    page = open_page("/plan", **NO_SCRIPTS)
    page.get_by_label("Hub id or URL, or several").fill("meta-llama/Llama-3.1-70B")
    page.get_by_label("GPU", exact=True).select_option("a100-sxm4-80gb")
    page.get_by_label("Tasks to serve").fill("20")
    page.get_by_label("Switch per request").check()
    page.get_by_role("button", name="Find configurations").click()
    assert page.get_by_label("Tasks to serve").input_value() == "20"
    assert page.get_by_label("Switch per request").is_checked()
    required = page.locator(".ranked td data").first.get_attribute("value")
    page.get_by_role("link", name="Open this configuration").first.click()
    assert page.locator(".verdict-word").inner_text() == "Fits"
    assert page.locator(f".facts data[value='{required}']").count() == 1


def test_contradicting_requirements_link_to_the_field_and_keep_the_form(open_page):
    page = open_page("/plan?tasks=20&must_merge=true&switch_per_request=true")
    page.get_by_role("link", name="Must merge").click()
    assert page.url.endswith("#must_merge")
    page.get_by_label("Must merge").uncheck()
    page.get_by_role("button", name="Find configurations").click()
    page.locator(".configuration").nth(1).wait_for()
    assert page.get_by_label("Tasks to serve").input_value() == "20"


@pytest.mark.parametrize("address", ["/plan", "/inference"])
def test_a_memory_size_and_a_named_gpu_replace_each_other(open_page, address):
    page = open_page(address)
    card, size = page.locator("#gpu"), page.locator("#memory_gib")
    assert card.input_value() == "rtx-4090"
    size.fill("24")
    assert card.input_value() == ""
    card.select_option("l4")
    assert size.input_value() == ""
    size.fill("48")
    page.get_by_role("button", name=re.compile("Find configurations|Update the answer")).click()
    page.wait_for_url("**memory_gib=48**")
    assert page.locator("#refusal").count() == 0
    assert (card.input_value(), size.input_value()) == ("", "48")


def test_the_links_that_sort_a_table_are_visible_on_a_phone_when_they_have_the_focus(open_page):
    page = open_page("/cards/rtx-4060?q=qwen", viewport={"width": 320, "height": 800})
    link = page.locator("thead a").first
    assert page.locator("thead").bounding_box()["width"] == 1
    page.locator(".scroll").focus()
    page.keyboard.press("Tab")
    assert link.evaluate("element => element === document.activeElement")
    heading, box = page.locator("thead").bounding_box(), link.bounding_box()
    assert heading["x"] <= box["x"]
    assert box["x"] + box["width"] <= heading["x"] + heading["width"]
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 320
