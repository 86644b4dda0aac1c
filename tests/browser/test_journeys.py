"""What people come to do with a plan, done in a browser."""

from tests.browser.journeys import UNSCRIPTED, answered, furnished, verdict


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


def test_a_memory_size_takes_the_place_of_a_named_card(opened):
    page = opened()
    answered(page, lambda: page.get_by_label("Memory, in GiB").fill("6"))
    assert page.locator("#gpu").input_value() == ""
    assert verdict(page) == "Does not fit"


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
    required = row.locator("[data-label='Required after it'] data").get_attribute("value")
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


def test_the_keyboard_alone_reaches_the_content_first(opened):
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("() => document.activeElement.id") == "main"
