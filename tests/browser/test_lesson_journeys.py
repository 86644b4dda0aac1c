"""The lesson in a browser: changed numbers, corrected errors and charts."""

from tests.browser.journeys import NO_SCRIPTS, after_update


def test_without_scripts_a_changed_number_changes_the_answer(open_page):
    page = open_page("/lesson", **NO_SCRIPTS)
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
    assert "the model is unchanged" in page.locator("#forward .worked-answer").inner_text()
    assert "81,920 parameters" in answer.inner_text()


def test_a_changed_number_updates_the_answer_and_the_address_in_place(open_page):
    page = open_page("/lesson/lora")
    page.evaluate("() => { window.sameDocument = true; }")
    after_update(page, lambda: page.get_by_label("Rows").fill("1024"))
    assert "256 ×" not in page.locator("#count .worked-answer").inner_text()
    assert page.url.endswith("/lesson/lora?count-d=1024")
    after_update(page, lambda: page.locator("#forward-B").fill("0; 0"))
    assert "the model is unchanged" in page.locator("#forward .worked-answer").inner_text()
    assert page.evaluate("() => window.sameDocument")
    assert page.locator("[data-json]").get_attribute("href") == "/lesson/lora.json?count-d=1024&forward-B=0%3B+0"


def test_a_wrong_number_is_reported_at_its_field_until_it_is_corrected(open_page):
    page = open_page("/lesson/lora")
    field = page.locator("#forward-A")
    after_update(page, lambda: field.fill("0.1, abc"))
    assert "which is not a number" in page.locator("#forward-A-error").inner_text()
    assert field.get_attribute("aria-invalid") == "true"
    page.locator("#forward").get_by_role("link", name="A", exact=True).click()
    assert field.evaluate("element => element === document.activeElement")
    after_update(page, lambda: field.fill("0.1, 0.2"))
    assert field.get_attribute("aria-invalid") is None
    assert page.locator("#forward .summary").count() == 0


def test_the_lesson_draws_its_figures(open_page):
    page = open_page("/lesson/quantisation")
    page.wait_for_selector("[data-figure=levels-figure][data-drawn] .scatterlayer .point")
    page.wait_for_selector("[data-figure=shares-figure][data-drawn] .bars .point")
    assert page.locator("[data-figure=shares-figure] .bars .point").count() == 16


def test_the_comparison_is_redrawn_for_another_model(open_page):
    page = open_page("/lesson/comparison")
    page.wait_for_selector(".chart-canvas[data-drawn] .bars .point")
    after_update(page, lambda: page.locator("#table-model").fill("TinyLlama/TinyLlama-1.1B-Chat-v1.0"))
    assert "1,100,048,384" in page.locator("table.comparison tbody tr").first.inner_text()
    assert page.locator(".chart-canvas .trace.bars").count() >= 6


def test_an_input_shows_the_whole_id_or_list_that_it_starts_with(open_page):
    for address, width in (("/lesson/lora", 480), ("/lesson/qlora", 480), ("/lesson/quantisation", 1440)):
        page = open_page(address, viewport={"width": width, "height": 800})
        boxes = page.locator(".try input[type=text]").evaluate_all(
            "boxes => boxes.map(box => [box.id, box.scrollWidth - box.clientWidth])"
        )
        assert [box for box in boxes if box[1] > 0] == []
