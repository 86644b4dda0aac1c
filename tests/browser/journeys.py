"""Helpers of the browser tests: a browser without scripts, the verdict on the page, and waits for updates."""

NO_SCRIPTS = {"java_script_enabled": False}


def verdict(page):
    return page.locator(".verdict-word").inner_text()


def after_update(page, action):
    """Do something, and wait until the page has updated its answer."""
    page.evaluate(
        "() => { window.seen = false; document.addEventListener('answered', () => { window.seen = true; }); }"
    )
    action()
    page.wait_for_function("() => window.seen")


def wait_for_limits(page):
    """Wait for the limits and the map, which load after the answer."""
    page.wait_for_function(
        "() => document.querySelector('.map') && !document.querySelector('[data-limits][aria-busy]')"
    )
