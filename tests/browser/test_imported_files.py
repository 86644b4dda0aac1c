"""Plans from files: pasted, chosen or dropped, with and without scripts, valid or broken."""

import json

import pytest

from tests.browser.journeys import NO_SCRIPTS, after_update, verdict


def test_a_pasted_config_replaces_the_model(open_page, origin):
    page = open_page()
    config = page.request.get(f"{origin}/api/v1/models/TinyLlama/TinyLlama-1.1B-Chat-v1.0").json()["config"]
    page.get_by_text("Another model, by its config.json").click()
    after_update(page, lambda: page.locator("#config").fill(json.dumps(config, indent=2)))
    assert "a llama of 1,100,048,384 parameters" in page.locator("#verdict .eyebrow").inner_text()
    assert page.locator("#model").input_value() == ""


def test_a_chosen_config_file_is_planned(open_page, origin, tmp_path):
    page = open_page()
    file = tmp_path / "config.json"
    file.write_text(
        json.dumps(page.request.get(f"{origin}/api/v1/models/TinyLlama/TinyLlama-1.1B-Chat-v1.0").json()["config"])
    )
    after_update(page, lambda: page.locator("#config-file").set_input_files(file))
    assert "a llama" in page.locator("#verdict .eyebrow").inner_text()


def test_a_config_file_can_be_dropped_on_the_form(open_page, origin):
    page = open_page()
    config = page.request.get(f"{origin}/api/v1/models/TinyLlama/TinyLlama-1.1B-Chat-v1.0").json()["config"]
    dropped = """(text) => {
      const files = new DataTransfer();
      files.items.add(new File([text], "config.json", { type: "application/json" }));
      document.getElementById("plan").dispatchEvent(
        new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true }));
    }"""
    after_update(page, lambda: page.evaluate(dropped, json.dumps(config)))
    assert "a llama" in page.locator("#verdict .eyebrow").inner_text()
    assert page.locator("#model").input_value() == ""


def test_without_scripts_a_button_plans_the_config(open_page, origin):
    page = open_page(**NO_SCRIPTS)
    config = page.request.get(f"{origin}/api/v1/models/TinyLlama/TinyLlama-1.1B-Chat-v1.0").json()["config"]
    page.get_by_text("Another model, by its config.json").click()
    page.locator("#config").fill(json.dumps(config))
    page.get_by_role("button", name="Use this config").click()
    assert "a llama" in page.locator("#verdict .eyebrow").inner_text()
    assert "config=" in page.url


def test_without_scripts_a_plan_is_exported_and_imported(open_page):
    page = open_page(**NO_SCRIPTS)
    with page.expect_download() as started:
        page.get_by_role("link", name="axolotl.yaml").click()
    assert started.value.suggested_filename == "axolotl.yaml"
    text = started.value.path().read_text()
    assert "base_model: meta-llama/Llama-3.1-8B" in text
    page.get_by_text("Start from a file", exact=False).click()
    page.get_by_label("The file, command or script").fill(text.replace("lora_r: 16", "lora_r: 32") + "plugins: [x]\n")
    page.get_by_role("button", name="Estimate this file").click()
    assert "plugins" in page.locator("#imported-title ~ ul").inner_text()
    assert page.get_by_label("Rank", exact=True).first.input_value() == "32"


def paste(page, text):
    """Import a file from its text."""
    page.get_by_text("Start from a file", exact=False).click()
    page.get_by_label("The file, command or script").fill(text)
    page.get_by_role("button", name="Estimate this file").click()
    page.wait_for_url("**/import*")


@pytest.mark.parametrize("options", [{}, NO_SCRIPTS])
def test_a_broken_file_is_reported_first_and_keeps_the_form(open_page, options):
    page = open_page("/?r=32", **options)
    page.get_by_label("Micro-batch size").fill("3")
    paste(page, "foo: [bar")
    assert page.locator("#verdict h2").inner_text() == "This file can't be planned"
    assert page.locator("#verdict").bounding_box()["y"] < 900
    assert page.get_by_label("Micro-batch size").input_value() == "3"
    assert page.get_by_label("Rank", exact=True).first.input_value() == "32"
    page.get_by_role("link", name="The file").click()
    assert page.url.endswith("#content")
    assert page.get_by_label("The file, command or script").input_value() == "foo: [bar"


def test_a_change_after_a_broken_file_updates_the_answer(open_page):
    page = open_page()
    paste(page, "foo: [bar")
    after_update(page, lambda: page.get_by_label("Full fine-tuning").check())
    assert verdict(page) == "Does not fit"
    assert page.locator("#content-error").inner_text() == ""
    assert page.locator("#content").get_attribute("aria-invalid") is None
    assert page.locator("#content").input_value() == "foo: [bar"
    assert page.url.endswith("/?method=full")


@pytest.mark.parametrize("longer", ["", f"\n# {'x' * 9000}"])
def test_back_from_a_change_returns_to_the_plan_of_the_file(open_page, longer):
    page = open_page("/?gpu=a100-sxm4-80gb&method=lora")
    paste(page, f"base_model: gpt2\nadapter: lora\nlora_r: 24\nplugins: [liger]{longer}")
    note = page.locator("#imported-title + p")
    assert "A100" in note.inner_text()
    after_update(page, lambda: page.get_by_label("Full fine-tuning").check())
    assert note.count() == 0
    page.go_back()
    page.wait_for_function("() => document.querySelector('#method-lora')?.checked")
    assert page.get_by_label("Rank", exact=True).first.input_value() == "24"
    assert page.locator("#gpu").input_value() == "a100-sxm4-80gb"
    assert note.count() == (0 if longer else 1)


def test_back_after_a_broken_file_restores_the_form(open_page):
    page = open_page("/?gpu=a100-sxm4-80gb&r=32")
    paste(page, "foo: [bar")
    after_update(page, lambda: page.get_by_label("Full fine-tuning").check())
    page.go_back()
    page.wait_for_function("() => document.querySelector('#method-qlora')?.checked")
    assert page.locator("#content").input_value() == "foo: [bar"
    assert page.get_by_label("Rank", exact=True).first.input_value() == "32"
