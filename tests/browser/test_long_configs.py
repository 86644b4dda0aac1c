"""Plans whose config is too long for a link."""

import json

import pytest

from tests.browser.journeys import NO_SCRIPTS


@pytest.mark.parametrize("options", [{}, NO_SCRIPTS])
def test_every_control_works_for_a_plan_too_long_for_a_link(open_page, origin, options):
    page = open_page(**options)
    config = page.request.get(f"{origin}/api/v1/models/TinyLlama/TinyLlama-1.1B-Chat-v1.0").json()["config"]
    page.get_by_text("Another model, by its config.json").click()
    page.locator("#config").fill(json.dumps({**config, "note": "x" * 200_000}))
    page.get_by_role("button", name="Use this config").click()
    page.get_by_text("too long for a link").wait_for()
    longest = "() => Math.max(...[...document.links].map((link) => link.href.length))"
    assert page.evaluate(longest) < 200
    page.get_by_role("button", name="Prefix tuning", exact=True).click()
    page.locator("#verdict .eyebrow", has_text="Prefix tuning · a llama").wait_for()
    assert not page.get_by_label("Gradient checkpointing").is_checked()
    page.get_by_role("button", name="LoRA", exact=True).click()
    page.locator("#verdict .eyebrow", has_text="LoRA · a llama").wait_for()
    assert page.locator("#method-lora").is_checked()
    change = page.locator(".changes th button").first
    required = page.locator(".changes [data-label='Required after it'] data").first.get_attribute("value")
    change.click()
    page.locator(f".facts data[value='{required}']").wait_for()
    page.wait_for_load_state()  # until then, the last card that is there may not be the page's last card
    name = page.locator(".shelves").first.locator(".names button").last.inner_text()
    page.locator(".shelves").first.get_by_role("button", name=name, exact=True).click()
    page.locator("#verdict .eyebrow", has_text=name).wait_for()
    with page.expect_download() as started:
        page.locator("button[formaction='/export/peft']").click()
    assert "LoRA of a llama" in started.value.path().read_text()
    page.get_by_label("Micro-batch size").fill("2")
    page.get_by_role("button", name="Update the estimate").click()
    page.locator("#verdict .eyebrow", has_text=name).wait_for()
    assert page.get_by_label("Micro-batch size").input_value() == "2"
    assert len(page.locator("#config").input_value()) > 200_000
