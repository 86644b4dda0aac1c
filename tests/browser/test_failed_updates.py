"""A failed update is visible, and the previous answer is marked as outdated."""

import json

from tests.browser.journeys import after_update, verdict, wait_for_limits


def error_message(page):
    """Return the error that the page shows; every other part must mark the answer as outdated."""
    page.locator("#unanswered").wait_for()
    assert page.locator("#answer").get_attribute("aria-busy") == "true"
    assert page.title().startswith("No answer to this form")
    assert page.locator("[data-live=status]").inner_text() == ""
    assert "No answer" in page.locator(".strip").text_content()
    message = page.locator("#unanswered [role=alert]").inner_text()
    assert "still those of the run before this change" in message
    return message


def test_a_lost_server_is_reported_until_it_answers_again(open_page):
    page = open_page()
    wait_for_limits(page)
    page.context.set_offline(True)
    page.locator("#method-full").check()
    assert "The server can't be reached." in error_message(page)
    page.locator("#method-lora").scroll_into_view_if_needed()
    assert page.locator("#unanswered").evaluate("element => element.getBoundingClientRect().top") >= 0
    page.context.set_offline(False)
    after_update(page, lambda: page.get_by_role("button", name="Try again").click())
    assert not page.locator("#unanswered").is_visible()
    assert page.evaluate("() => document.activeElement.id") == "verdict"
    assert verdict(page) == "Does not fit"
    assert "does not fit" in page.locator("[data-live=status]").inner_text()
    assert page.title().startswith("Does not fit")


def test_a_form_that_is_too_large_shows_the_servers_message(open_page):
    page = open_page(viewport={"width": 375, "height": 800})
    page.get_by_text("Another model, by its config.json").click()
    page.locator("#config").fill(json.dumps({"note": "x" * 1_200_000}))
    assert "(status 413): the body is larger than 1,048,576 bytes." in error_message(page)
    page.locator(".strip").click()
    assert page.url.endswith("#unanswered")
    after_update(page, lambda: page.locator("#config").fill(""))
    assert not page.locator("#unanswered").is_visible()
    assert page.locator(".strip").get_attribute("href").endswith("#verdict")


def test_a_response_that_is_not_a_page_is_reported(open_page):
    page = open_page()
    page.route("**/?*", lambda route: route.fulfill(status=200, body="", content_type="text/plain"))
    page.locator("#method-full").check()
    assert "The server did not answer this form (status 200)." in error_message(page)
    fault = {"detail": "a fault of its own", "status": 500}
    page.route("**/?*", lambda route: route.fulfill(status=200, json=fault))
    page.locator("#method-lora").check()
    page.get_by_text("(status 200): a fault of its own.").wait_for()
