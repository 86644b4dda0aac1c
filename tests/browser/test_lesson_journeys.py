"""What readers of the lesson do: change its numbers, put wrong ones right, and see its figures drawn."""

from tests.browser.journeys import UNSCRIPTED, answered


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
    assert "the model is unchanged" in page.locator("#forward .worked-answer").inner_text()
    assert "81,920 parameters" in answer.inner_text()


def test_a_changed_number_is_answered_in_place_and_the_address_says_so(opened):
    page = opened("/lesson/lora")
    page.evaluate("() => { window.sameDocument = true; }")
    answered(page, lambda: page.get_by_label("Rows").fill("1024"))
    assert "256 ×" not in page.locator("#count .worked-answer").inner_text()
    assert page.url.endswith("/lesson/lora?count-d=1024")
    answered(page, lambda: page.locator("#forward-B").fill("0; 0"))
    assert "the model is unchanged" in page.locator("#forward .worked-answer").inner_text()
    assert page.evaluate("() => window.sameDocument")
    assert page.locator("[data-twin]").get_attribute("href") == "/lesson/lora.json?count-d=1024&forward-B=0%3B+0"


def test_a_wrong_number_is_told_at_its_field_and_put_right_in_place(opened):
    page = opened("/lesson/lora")
    field = page.locator("#forward-A")
    answered(page, lambda: field.fill("0.1, abc"))
    assert "which is not a number" in page.locator("#forward-A-error").inner_text()
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
