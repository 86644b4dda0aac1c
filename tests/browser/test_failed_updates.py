"""An update that fails is told in sight, and the answer before it is not taken for the form's."""

import json

from tests.browser.journeys import answered, furnished, verdict


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
    answered(page, lambda: page.get_by_role("button", name="Try again").click())
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
