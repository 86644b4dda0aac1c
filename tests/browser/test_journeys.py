"""The page `/` in a browser: changes, errors, links and charts."""

from calculator.methods import USUAL_METHODS
from tests.browser.journeys import NO_SCRIPTS, after_update, verdict, wait_for_limits


def test_the_first_page_shows_an_answer_and_a_chart(open_page):
    page = open_page()
    assert verdict(page) == "Fits"
    page.wait_for_selector(".chart-canvas[data-drawn] .bars .point")
    assert page.locator(".chart-canvas .trace.bars").count() >= 6
    assert page.locator(".methods tbody th[scope=row]").count() == len(USUAL_METHODS)


def test_a_change_updates_the_answer_the_address_and_the_chart_in_place(open_page):
    page = open_page()
    page.wait_for_selector(".chart-canvas[data-drawn]")
    page.evaluate("() => { window.sameDocument = true; }")
    after_update(page, lambda: page.get_by_label("Full fine-tuning").check())
    assert verdict(page) == "Does not fit"
    assert page.url.endswith("/?method=full")
    assert page.title().startswith("Does not fit: Full fine-tuning")
    assert page.evaluate("() => window.sameDocument")
    assert page.locator(".chart-canvas .trace.bars").count() >= 6


def test_typing_a_model_and_a_gpu_updates_the_answer(open_page):
    page = open_page()
    after_update(
        page,
        lambda: page.get_by_label("Hub id or URL").fill(
            "https://huggingface.co/TinyLlama/TinyLlama-1.1B-Chat-v1.0/tree/main"
        ),
    )
    assert "TinyLlama" in page.locator("#verdict .eyebrow").inner_text()
    after_update(page, lambda: page.get_by_label("GPU", exact=True).select_option("h100-sxm5-80gb"))
    assert "H100" in page.locator("#verdict .eyebrow").inner_text()
    assert "gpu=h100-sxm5-80gb" in page.url


def test_the_address_reproduces_the_plan(open_page):
    mine = open_page()
    after_update(mine, lambda: mine.get_by_label("Micro-batch size").fill("4"))
    theirs = open_page(mine.url)
    assert theirs.locator(".verdict-sentence").inner_text() == mine.locator(".verdict-sentence").inner_text()
    assert theirs.get_by_label("Micro-batch size").input_value() == "4"


def test_back_returns_to_the_previous_plan(open_page):
    page = open_page()
    before = page.locator(".verdict-sentence").inner_text()
    after_update(page, lambda: page.get_by_label("Full fine-tuning").check())
    page.go_back()
    page.wait_for_function("() => document.querySelector('#method-qlora')?.checked")
    assert page.locator(".verdict-sentence").inner_text() == before


def test_only_the_answer_to_the_last_change_is_shown(open_page):
    page = open_page()
    routes = []

    def hold_first(route):
        if routes:
            route.continue_()
        routes.append(route)

    page.route("**/?*", hold_first)
    after_update(page, lambda: [page.locator(f"#method-{name}").check() for name in ("full", "lora")])
    routes[0].continue_()
    page.wait_for_timeout(300)
    assert page.url.endswith("?method=lora")
    assert "LoRA" in page.locator("#verdict .eyebrow").inner_text()


def test_a_row_of_the_comparison_changes_only_the_method(open_page):
    page = open_page("/?sequence_length=1024&r=32")
    page.get_by_role("link", name="LoRA", exact=True).click()
    page.wait_for_url("**/?method=lora&*")
    assert page.locator("#method-lora").is_checked()
    assert page.get_by_label("Sequence length, in tokens").input_value() == "1024"
    assert page.locator("#r").input_value() == "32"


def test_an_open_component_stays_open_after_an_update(open_page):
    page = open_page()
    component = page.locator("[data-fold=component-base_weights]")
    component.locator("summary").click()
    assert component.locator(".storage code").first.is_visible()
    after_update(page, lambda: page.get_by_label("Micro-batch size").fill("2"))
    assert page.locator("[data-fold=component-base_weights] .storage code").first.is_visible()


def test_wrong_input_is_reported_at_its_field_until_it_is_corrected(open_page):
    page = open_page()
    field = page.get_by_label("Sequence length, in tokens")
    after_update(page, lambda: field.fill("abc"))
    assert page.locator("#sequence_length-error").inner_text().endswith("must be a whole number, not 'abc'")
    assert field.get_attribute("aria-invalid") == "true"
    page.get_by_role("link", name="Sequence length").click()
    assert field.evaluate("element => element === document.activeElement")
    assert field.input_value() == "abc"
    after_update(page, lambda: field.fill("1024"))
    assert page.locator("#sequence_length-error").inner_text() == ""
    assert field.get_attribute("aria-invalid") is None
    assert verdict(page) == "Fits"


def test_a_memory_size_replaces_the_named_gpu(open_page):
    page = open_page()
    after_update(page, lambda: page.get_by_label("Memory, in GiB").fill("6"))
    assert page.locator("#gpu").input_value() == ""
    assert verdict(page) == "Does not fit"


def test_without_scripts_the_form_and_the_links_work(open_page):
    page = open_page(**NO_SCRIPTS)
    assert verdict(page) == "Fits"
    assert not page.locator(".chart:visible").count()
    page.get_by_label("Full fine-tuning").check()
    page.get_by_label("Micro-batch size").fill("2")
    page.get_by_label("Gradient checkpointing").uncheck()
    page.get_by_role("button", name="Update the estimate").click()
    assert verdict(page) == "Does not fit"
    assert page.get_by_label("Micro-batch size").input_value() == "2"
    assert not page.get_by_label("Gradient checkpointing").is_checked()
    page.get_by_role("link", name="Link to this estimate").click()
    assert page.url.endswith("/?method=full&gradient_checkpointing=false&micro_batch_size=2")
    page.get_by_role("link", name="QLoRA", exact=True).click()
    assert page.locator("#method-qlora").is_checked()


def test_the_limits_and_the_map_change_with_the_answer(open_page):
    page = open_page()
    wait_for_limits(page)
    rank = page.get_by_role("row").filter(has=page.get_by_role("rowheader", name="Rank")).first.inner_text()
    after_update(page, lambda: page.get_by_label("GPU", exact=True).select_option("h100-sxm5-80gb"))
    wait_for_limits(page)
    assert page.get_by_role("row").filter(has=page.get_by_role("rowheader", name="Rank")).first.inner_text() != rank
    current = page.locator(".cell[aria-current]")
    assert (current.count(), current.get_attribute("data-verdict")) == (1, "fits")


def test_a_suggestion_links_to_its_plan_and_its_difference(open_page):
    page = open_page()
    row = page.locator(".changes tbody tr").first
    required = row.locator("[data-label='Required after it'] data").get_attribute("value")
    row.get_by_role("link", name="row by row").click()
    assert page.locator("table data").nth(1).get_attribute("value") == required
    page.get_by_role("link", name="QLoRA").last.click()
    page.locator(f".facts data[value='{required}']").wait_for(state="attached")


def test_the_timeline_is_redrawn_after_an_update(open_page):
    page = open_page()
    canvas = page.locator(".chart-line")
    page.wait_for_selector(".chart-line[data-drawn] .scatterlayer path.js-line")
    before = canvas.locator("path.js-line").first.get_attribute("d")
    after_update(page, lambda: page.get_by_label("Full fine-tuning").check())
    page.wait_for_function(
        "before => document.querySelector('.chart-line path.js-line').getAttribute('d') !== before", arg=before
    )


def test_without_scripts_the_plan_links_to_its_limits_and_back(open_page):
    page = open_page(**NO_SCRIPTS)
    page.get_by_role("link", name="the largest batch, sequence and more that fit").click()
    row = page.get_by_role("row").filter(has=page.get_by_role("rowheader", name="Rank"))
    value = row.get_by_role("link").inner_text().replace(",", "")
    row.get_by_role("link").click()
    assert page.get_by_label("Rank").first.input_value() == value
    assert "fits with" in page.locator("#verdict").inner_text()


def test_without_scripts_an_error_links_to_its_field(open_page):
    page = open_page("/?r=0", **NO_SCRIPTS)
    page.get_by_role("link", name="Rank").click()
    assert page.url.endswith("#r")
    assert page.locator("#r").input_value() == "0"


def test_the_first_tab_stop_skips_to_the_content(open_page):
    page = open_page()
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("() => document.activeElement.id") == "main"


def test_the_choice_of_a_trainer_sets_its_defaults_in_the_form(open_page):
    page = open_page("/?model=meta-llama/Llama-3.2-1B&reserved=rule")
    after_update(page, lambda: page.get_by_label("TRL SFTTrainer").check())
    assert page.get_by_label("Precision", exact=True).input_value() == "float32"
    assert page.get_by_label("Autocast").input_value() == "bfloat16"
    assert "This run has its defaults" in page.locator(".tool").inner_text()
    after_update(page, lambda: page.get_by_label("Precision", exact=True).select_option("bfloat16"))
    assert "here bfloat16" in page.locator(".tool").inner_text()
    after_update(page, lambda: page.get_by_label("Reference step").check())
    assert page.url.endswith("/?model=meta-llama%2FLlama-3.2-1B&reserved=rule")


def test_without_scripts_the_choice_of_a_trainer_sets_its_defaults_too(open_page):
    page = open_page("/?model=meta-llama/Llama-3.2-1B&reserved=rule", **NO_SCRIPTS)
    page.get_by_label("axolotl").check()
    page.get_by_role("button", name="Update the estimate").click()
    assert "Its defaults" in page.locator(".tool").inner_text() or "its defaults" in page.locator(".tool").inner_text()
    assert page.locator("#optimizer").input_value() == "adamw_torch_fused"
    assert page.get_by_label("axolotl").is_checked()
