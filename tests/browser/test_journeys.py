"""What people come to do, done in a browser."""

import json
import re

import pytest

UNSCRIPTED = {"java_script_enabled": False}


def verdict(page):
    return page.locator(".verdict-word").inner_text()


def answered(page, act):
    """Do something, and wait until the page has swapped the answer."""
    page.evaluate(
        "() => { window.seen = false; document.addEventListener('answered', () => { window.seen = true; }); }"
    )
    act()
    page.wait_for_function("() => window.seen")


def test_the_first_view_answers_and_draws_the_chart(opened):
    page = opened()
    assert verdict(page) == "Fits"
    page.wait_for_selector(".chart-canvas[data-drawn] .bars .point")
    assert page.locator(".chart-canvas .trace.bars").count() >= 6
    assert page.locator(".methods tbody th[scope=row]").count() == 6


def test_a_change_updates_the_answer_the_address_and_the_chart_in_place(opened):
    page = opened()
    page.wait_for_selector(".chart-canvas[data-drawn]")
    page.evaluate("() => { window.sameDocument = true; }")
    answered(page, lambda: page.get_by_label("Full fine-tuning").check())
    assert verdict(page) == "Does not fit"
    assert page.url.endswith("/?method=full")
    assert page.title().startswith("Does not fit: Full fine-tuning")
    assert page.evaluate("() => window.sameDocument")
    assert page.locator(".chart-canvas .trace.bars").count() >= 6


def test_typing_a_model_and_a_card_answers_for_them(opened):
    page = opened()
    answered(
        page,
        lambda: page.get_by_label("Hub id or URL").fill(
            "https://huggingface.co/TinyLlama/TinyLlama-1.1B-Chat-v1.0/tree/main"
        ),
    )
    assert "TinyLlama" in page.locator("#verdict .eyebrow").inner_text()
    answered(page, lambda: page.get_by_label("GPU", exact=True).select_option("h100-sxm5-80gb"))
    assert "H100" in page.locator("#verdict .eyebrow").inner_text()
    assert "gpu=h100-sxm5-80gb" in page.url


def test_the_address_alone_leads_a_colleague_to_the_same_plan(opened):
    mine = opened()
    answered(mine, lambda: mine.get_by_label("Micro-batch size").fill("4"))
    theirs = opened(mine.url)
    assert theirs.locator(".verdict-sentence").inner_text() == mine.locator(".verdict-sentence").inner_text()
    assert theirs.get_by_label("Micro-batch size").input_value() == "4"


def test_back_returns_to_the_plan_before(opened):
    page = opened()
    before = page.locator(".verdict-sentence").inner_text()
    answered(page, lambda: page.get_by_label("Full fine-tuning").check())
    page.go_back()
    page.wait_for_function("() => document.querySelector('#method-qlora').checked")
    assert page.locator(".verdict-sentence").inner_text() == before


def test_only_the_answer_to_the_last_change_is_shown(opened):
    page = opened()
    slow = []

    def late(route):
        slow.append(route.request.url)
        if len(slow) == 1:
            page.wait_for_timeout(400)
        route.continue_()

    page.route("**/?*", late)
    answered(page, lambda: [page.locator(f"#method-{name}").check() for name in ("full", "lora")])
    page.wait_for_timeout(600)
    assert page.url.endswith("?method=lora")
    assert "LoRA" in page.locator("#verdict .eyebrow").inner_text()


def test_a_row_of_the_comparison_switches_the_method_and_keeps_the_rest(opened):
    page = opened("/?sequence_length=1024&r=32")
    page.get_by_role("link", name="LoRA", exact=True).click()
    page.wait_for_url("**/?method=lora&*")
    assert page.locator("#method-lora").is_checked()
    assert page.get_by_label("Sequence length, in tokens").input_value() == "1024"
    assert page.locator("#r").input_value() == "32"


def test_a_component_unfolds_to_its_tensors_and_stays_unfolded(opened):
    page = opened()
    component = page.locator("[data-fold=component-base_weights]")
    component.locator("summary").click()
    assert component.locator(".storage code").first.is_visible()
    answered(page, lambda: page.get_by_label("Micro-batch size").fill("2"))
    assert page.locator("[data-fold=component-base_weights] .storage code").first.is_visible()


def test_wrong_input_is_told_at_its_field_and_put_right_in_place(opened):
    page = opened()
    field = page.get_by_label("Sequence length, in tokens")
    answered(page, lambda: field.fill("abc"))
    assert page.locator("#sequence_length-error").inner_text().endswith("must be a whole number, not 'abc'")
    assert field.get_attribute("aria-invalid") == "true"
    page.get_by_role("link", name="Sequence length").click()
    assert field.evaluate("element => element === document.activeElement")
    assert field.input_value() == "abc"
    answered(page, lambda: field.fill("1024"))
    assert page.locator("#sequence_length-error").inner_text() == ""
    assert field.get_attribute("aria-invalid") is None
    assert verdict(page) == "Fits"


def test_a_pasted_config_is_planned_and_takes_the_model_back(opened, origin):
    page = opened()
    config = page.request.get(f"{origin}/api/v1/models/TinyLlama/TinyLlama-1.1B-Chat-v1.0").json()["config"]
    page.get_by_text("Another model, by its config.json").click()
    answered(page, lambda: page.locator("#config").fill(json.dumps(config, indent=2)))
    assert "a llama of 1,100,048,384 parameters" in page.locator("#verdict .eyebrow").inner_text()
    assert page.locator("#model").input_value() == ""


def test_a_chosen_config_file_is_planned(opened, origin, tmp_path):
    page = opened()
    file = tmp_path / "config.json"
    file.write_text(
        json.dumps(page.request.get(f"{origin}/api/v1/models/TinyLlama/TinyLlama-1.1B-Chat-v1.0").json()["config"])
    )
    answered(page, lambda: page.locator("#config-file").set_input_files(file))
    assert "a llama" in page.locator("#verdict .eyebrow").inner_text()


def test_a_config_file_may_be_dropped_on_the_form(opened, origin):
    page = opened()
    config = page.request.get(f"{origin}/api/v1/models/TinyLlama/TinyLlama-1.1B-Chat-v1.0").json()["config"]
    dropped = """(text) => {
      const files = new DataTransfer();
      files.items.add(new File([text], "config.json", { type: "application/json" }));
      document.getElementById("plan").dispatchEvent(
        new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true }));
    }"""
    answered(page, lambda: page.evaluate(dropped, json.dumps(config)))
    assert "a llama" in page.locator("#verdict .eyebrow").inner_text()
    assert page.locator("#model").input_value() == ""


def test_a_memory_size_takes_the_place_of_a_named_card(opened):
    page = opened()
    answered(page, lambda: page.get_by_label("Memory, in GiB").fill("6"))
    assert page.locator("#gpu").input_value() == ""
    assert verdict(page) == "Does not fit"


def withheld(page):
    """What the page says in sight where an answer does not come; nothing else may pass for it."""
    page.locator("#unanswered").wait_for()
    assert page.locator("#answer").get_attribute("aria-busy") == "true"
    assert page.title().startswith("No answer to this form")
    assert page.locator("[data-live=status]").inner_text() == ""
    assert "No answer" in page.locator(".strip").text_content()
    told = page.locator("#unanswered [role=alert]").inner_text()
    assert "still those of the plan before this change" in told
    return told


def test_a_server_that_is_gone_is_told_in_sight_until_it_answers_again(opened):
    page = opened()
    furnished(page)
    page.context.set_offline(True)
    page.locator("#method-full").check()
    assert "The server can't be reached." in withheld(page)
    page.locator("#method-lora").scroll_into_view_if_needed()
    assert page.locator("#unanswered").evaluate("element => element.getBoundingClientRect().top") >= 0
    page.context.set_offline(False)
    answered(page, lambda: page.get_by_role("button", name="Ask again").click())
    assert not page.locator("#unanswered").is_visible()
    assert page.evaluate("() => document.activeElement.id") == "verdict"
    assert verdict(page) == "Does not fit"
    assert "does not fit" in page.locator("[data-live=status]").inner_text()
    assert page.title().startswith("Does not fit")


def test_a_form_that_is_too_large_is_told_in_the_servers_words(opened):
    page = opened(viewport={"width": 375, "height": 800})
    page.get_by_text("Another model, by its config.json").click()
    page.locator("#config").fill(json.dumps({"note": "x" * 1_200_000}))
    assert "(status 413): the body is larger than 1,048,576 bytes." in withheld(page)
    page.locator(".strip").click()
    assert page.url.endswith("#unanswered")
    answered(page, lambda: page.locator("#config").fill(""))
    assert not page.locator("#unanswered").is_visible()
    assert page.locator(".strip").get_attribute("href").endswith("#verdict")


def test_an_answer_that_is_no_page_and_a_fault_are_told(opened):
    page = opened()
    page.route("**/?*", lambda route: route.fulfill(status=200, body="", content_type="text/plain"))
    page.locator("#method-full").check()
    assert "The server did not answer this form (status 200)." in withheld(page)
    fault = {"detail": "a fault of its own", "status": 500}
    page.route("**/?*", lambda route: route.fulfill(status=200, json=fault))
    page.locator("#method-lora").check()
    page.get_by_text("(status 200): a fault of its own.").wait_for()


def test_without_scripts_the_form_answers_and_links_lead_on(opened):
    page = opened(**UNSCRIPTED)
    assert verdict(page) == "Fits"
    assert not page.locator(".chart:visible").count()
    page.get_by_label("Full fine-tuning").check()
    page.get_by_label("Micro-batch size").fill("2")
    page.get_by_label("Gradient checkpointing").uncheck()
    page.get_by_role("button", name="Update the plan").click()
    assert verdict(page) == "Does not fit"
    assert page.get_by_label("Micro-batch size").input_value() == "2"
    assert not page.get_by_label("Gradient checkpointing").is_checked()
    page.get_by_role("link", name="Link to this plan").click()
    assert page.url.endswith("/?method=full&gradient_checkpointing=false&micro_batch_size=2")
    page.get_by_role("link", name="QLoRA", exact=True).click()
    assert page.locator("#method-qlora").is_checked()


def furnished(page):
    """Wait for the limits and the map, which come after the answer."""
    page.wait_for_function("() => document.querySelector('.map') && !document.querySelector('[data-room][aria-busy]')")


def test_the_limits_and_the_map_follow_the_answer_and_change_with_it(opened):
    page = opened()
    furnished(page)
    rank = page.get_by_role("row").filter(has=page.get_by_role("rowheader", name="Rank")).first.inner_text()
    answered(page, lambda: page.get_by_label("GPU", exact=True).select_option("h100-sxm5-80gb"))
    page.wait_for_timeout(500)
    furnished(page)
    assert page.get_by_role("row").filter(has=page.get_by_role("rowheader", name="Rank")).first.inner_text() != rank
    own = page.locator(".cell[aria-current]")
    assert (own.count(), own.get_attribute("data-verdict")) == (1, "fits")


def test_a_suggestion_leads_to_its_plan_and_to_its_difference_row_by_row(opened):
    page = opened()
    row = page.locator(".changes tbody tr").first
    required = row.locator("[data-label='Required then'] data").get_attribute("value")
    row.get_by_role("link", name="row by row").click()
    assert page.locator("table data").nth(1).get_attribute("value") == required
    page.get_by_role("link", name="QLoRA").last.click()
    assert page.locator(f".facts data[value='{required}']").count() == 1


def test_the_timeline_is_drawn_and_drawn_anew(opened):
    page = opened()
    canvas = page.locator(".chart-line")
    page.wait_for_selector(".chart-line[data-drawn] .scatterlayer path.js-line")
    before = canvas.locator("path.js-line").first.get_attribute("d")
    answered(page, lambda: page.get_by_label("Full fine-tuning").check())
    page.wait_for_function(
        "before => document.querySelector('.chart-line path.js-line').getAttribute('d') !== before", arg=before
    )


def test_without_scripts_the_plan_leads_to_its_limits_and_a_limit_to_its_plan(opened):
    page = opened(**UNSCRIPTED)
    page.get_by_role("link", name="the largest batch, sequence and more that fit").click()
    row = page.get_by_role("row").filter(has=page.get_by_role("rowheader", name="Rank"))
    value = row.get_by_role("link").inner_text().replace(",", "")
    row.get_by_role("link").click()
    assert page.get_by_label("Rank").first.input_value() == value
    assert "fits with" in page.locator("#verdict").inner_text()


def test_without_scripts_wrong_input_leads_to_its_field(opened):
    page = opened("/?r=0", **UNSCRIPTED)
    page.get_by_role("link", name="Rank").click()
    assert page.url.endswith("#r")
    assert page.locator("#r").input_value() == "0"


def test_without_scripts_a_config_is_planned_by_its_own_button(opened, origin):
    page = opened(**UNSCRIPTED)
    config = page.request.get(f"{origin}/api/v1/models/TinyLlama/TinyLlama-1.1B-Chat-v1.0").json()["config"]
    page.get_by_text("Another model, by its config.json").click()
    page.locator("#config").fill(json.dumps(config))
    page.get_by_role("button", name="Plan this config").click()
    assert "a llama" in page.locator("#verdict .eyebrow").inner_text()
    assert "config=" in page.url


def test_the_documentation_works_offline_and_unfolds(opened):
    page = opened("/docs")
    section = page.locator("section.operation").first
    section.get_by_text("Its fields").first.click()
    assert section.locator("details[open] .schema").first.is_visible()


def test_the_keyboard_alone_reaches_the_content_first(opened):
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("() => document.activeElement.id") == "main"


def test_the_validation_report_draws_its_chart_and_unfolds_its_table(opened):
    page = opened()
    page.get_by_role("link", name="Validation").click()
    page.wait_for_selector(".chart-canvas[data-drawn] .scatterlayer .point")
    page.locator("details[data-fold=whole] summary").click()
    assert page.locator("details[open] tbody tr").first.is_visible()


def test_without_scripts_the_validation_report_has_its_tables(opened):
    page = opened("/validation", **UNSCRIPTED)
    assert not page.locator(".chart").is_visible()
    page.locator("details[data-fold=whole] summary").click()
    assert page.locator("details[data-fold=whole] tbody tr").first.is_visible()
    assert page.get_by_role("heading", name="The worst, and why").is_visible()


def test_without_scripts_needs_lead_to_a_configuration_and_on_to_its_check(opened):
    page = opened("/plan", **UNSCRIPTED)
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


def test_needs_without_an_answer_lead_to_the_field_and_keep_what_is_typed(opened):
    page = opened("/plan?tasks=20&must_merge=true&switch_per_request=true")
    page.get_by_role("link", name="Must merge").click()
    assert page.url.endswith("#must_merge")
    page.get_by_label("Must merge").uncheck()
    page.get_by_role("button", name="Find configurations").click()
    page.locator(".configuration").nth(1).wait_for()
    assert page.get_by_label("Tasks to serve").input_value() == "20"


def test_a_plan_is_taken_along_and_a_file_brought_in_without_a_script(opened):
    page = opened(**UNSCRIPTED)
    with page.expect_download() as started:
        page.get_by_role("link", name="axolotl.yaml").click()
    assert started.value.suggested_filename == "axolotl.yaml"
    text = started.value.path().read_text()
    assert "base_model: meta-llama/Llama-3.1-8B" in text
    page.get_by_text("Start from a file").click()
    page.get_by_label("adapter_config.json, or a YAML").fill(
        text.replace("lora_r: 16", "lora_r: 32") + "plugins: [x]\n"
    )
    page.get_by_role("button", name="Plan this file").click()
    assert "plugins" in page.locator("#imported-title ~ ul").inner_text()
    assert page.get_by_label("Rank", exact=True).input_value() == "32"


def paste(page, text):
    """Give a file to start from."""
    page.get_by_text("Start from a file").click()
    page.get_by_label("adapter_config.json, or a YAML").fill(text)
    page.get_by_role("button", name="Plan this file").click()
    page.wait_for_url("**/import*")


@pytest.mark.parametrize("options", [{}, UNSCRIPTED])
def test_a_broken_file_is_told_above_all_and_everything_typed_stays(opened, options):
    page = opened("/?r=32", **options)
    page.get_by_label("Micro-batch size").fill("3")
    paste(page, "foo: [bar")
    assert page.locator("#verdict h2").inner_text() == "This file can't be planned"
    assert page.locator("#verdict").bounding_box()["y"] < 900
    assert page.get_by_label("Micro-batch size").input_value() == "3"
    assert page.get_by_label("Rank", exact=True).first.input_value() == "32"
    page.get_by_role("link", name="The file").click()
    assert page.url.endswith("#content")
    assert page.get_by_label("adapter_config.json, or a YAML").input_value() == "foo: [bar"


def test_a_plan_is_answered_again_in_place_after_a_broken_file(opened):
    page = opened()
    paste(page, "foo: [bar")
    answered(page, lambda: page.get_by_label("Full fine-tuning").check())
    assert verdict(page) == "Does not fit"
    assert page.locator("#content-error").inner_text() == ""
    assert page.locator("#content").get_attribute("aria-invalid") is None
    assert page.locator("#content").input_value() == "foo: [bar"
    assert page.url.endswith("/?method=full")


@pytest.mark.parametrize("longer", ["", f"\n# {'x' * 9000}"])
def test_back_from_a_change_leads_to_the_plan_of_the_file(opened, longer):
    page = opened("/?gpu=a100-sxm4-80gb&method=lora")
    paste(page, f"base_model: gpt2\nadapter: lora\nlora_r: 24\nplugins: [liger]{longer}")
    note = page.locator("#imported-title + p")
    assert "A100" in note.inner_text()
    answered(page, lambda: page.get_by_label("Full fine-tuning").check())
    assert note.count() == 0
    page.go_back()
    page.wait_for_function("() => document.querySelector('#method-lora').checked")
    assert page.get_by_label("Rank", exact=True).first.input_value() == "24"
    assert page.locator("#gpu").input_value() == "a100-sxm4-80gb"
    assert note.count() == (0 if longer else 1)


def test_back_after_a_broken_file_leads_to_what_was_typed(opened):
    page = opened("/?gpu=a100-sxm4-80gb&r=32")
    paste(page, "foo: [bar")
    answered(page, lambda: page.get_by_label("Full fine-tuning").check())
    page.go_back()
    page.wait_for_function("() => document.querySelector('#method-qlora').checked")
    assert page.locator("#content").input_value() == "foo: [bar"
    assert page.get_by_label("Rank", exact=True).first.input_value() == "32"


@pytest.mark.parametrize("options", [{}, UNSCRIPTED])
def test_every_control_of_a_plan_too_long_for_a_link_works(opened, origin, options):
    page = opened(**options)
    config = page.request.get(f"{origin}/api/v1/models/TinyLlama/TinyLlama-1.1B-Chat-v1.0").json()["config"]
    page.get_by_text("Another model, by its config.json").click()
    page.locator("#config").fill(json.dumps({**config, "note": "x" * 200_000}))
    page.get_by_role("button", name="Plan this config").click()
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
    required = page.locator(".changes [data-label='Required then'] data").first.get_attribute("value")
    change.click()
    page.locator(f".facts data[value='{required}']").wait_for()
    card = page.locator(".shelves").first.locator(".names button").last
    name = card.inner_text()
    card.click()
    page.locator("#verdict .eyebrow", has_text=name).wait_for()
    with page.expect_download() as started:
        page.locator("button[formaction='/export/peft']").click()
    assert "LoRA of a llama" in started.value.path().read_text()
    page.get_by_label("Micro-batch size").fill("2")
    page.get_by_role("button", name="Update the plan").click()
    page.locator("#verdict .eyebrow", has_text=name).wait_for()
    assert page.get_by_label("Micro-batch size").input_value() == "2"
    assert len(page.locator("#config").input_value()) > 200_000


def test_without_scripts_a_changed_number_has_another_answer(opened):
    page = opened("/lesson", **UNSCRIPTED)
    page.get_by_role("heading").get_by_role("link", name="LoRA", exact=True).click()
    answer = page.locator("#count .worked-answer")
    assert "8,388,608 parameters" in answer.inner_text()
    page.get_by_label("Rows").fill("1024")
    page.locator("#count-r").fill("16")
    page.get_by_role("button", name="Work it out").first.click()
    assert "81,920 parameters" in answer.inner_text()
    assert "51.2 ×" in answer.inner_text()
    assert page.url.endswith("#count")
    page.locator("#forward-B").fill("0; 0")
    page.get_by_role("button", name="Work it out").nth(1).click()
    assert "the model is where it was" in page.locator("#forward .worked-answer").inner_text()
    assert "81,920 parameters" in answer.inner_text()


def test_a_changed_number_is_answered_in_place_and_the_address_says_so(opened):
    page = opened("/lesson/lora")
    page.evaluate("() => { window.sameDocument = true; }")
    answered(page, lambda: page.get_by_label("Rows").fill("1024"))
    assert "256 ×" not in page.locator("#count .worked-answer").inner_text()
    assert page.url.endswith("/lesson/lora?count-d=1024")
    answered(page, lambda: page.locator("#forward-B").fill("0; 0"))
    assert "the model is where it was" in page.locator("#forward .worked-answer").inner_text()
    assert page.evaluate("() => window.sameDocument")
    assert page.locator("[data-twin]").get_attribute("href") == "/lesson/lora.json?count-d=1024&forward-B=0%3B+0"


def test_a_wrong_number_is_told_at_its_field_and_put_right_in_place(opened):
    page = opened("/lesson/lora")
    field = page.locator("#forward-A")
    answered(page, lambda: field.fill("0.1, abc"))
    assert "which is no number" in page.locator("#forward-A-error").inner_text()
    assert field.get_attribute("aria-invalid") == "true"
    page.locator("#forward").get_by_role("link", name="A", exact=True).click()
    assert field.evaluate("element => element === document.activeElement")
    answered(page, lambda: field.fill("0.1, 0.2"))
    assert field.get_attribute("aria-invalid") is None
    assert page.locator("#forward .summary").count() == 0


def test_the_lesson_draws_its_figures(opened):
    page = opened("/lesson/quantisation")
    page.wait_for_selector("[data-figure=levels-figure][data-drawn] .scatterlayer .point")
    page.wait_for_selector("[data-figure=shares-figure][data-drawn] .bars .point")
    assert page.locator("[data-figure=shares-figure] .bars .point").count() == 16


def test_the_comparison_follows_the_model_and_draws_again(opened):
    page = opened("/lesson/comparison")
    page.wait_for_selector(".chart-canvas[data-drawn] .bars .point")
    answered(page, lambda: page.locator("#table-model").fill("TinyLlama/TinyLlama-1.1B-Chat-v1.0"))
    assert "1,100,048,384" in page.locator("table.comparison tbody tr").first.inner_text()
    assert page.locator(".chart-canvas .trace.bars").count() >= 6


@pytest.mark.parametrize("address", ["/plan", "/inference"])
def test_a_size_takes_back_the_named_card_and_a_card_the_size(opened, address):
    page = opened(address)
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
