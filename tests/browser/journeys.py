"""What journeys share: a browser without scripts, the verdict in sight, and waits for what a page brings."""

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


def furnished(page):
    """Wait for the limits and the map, which come after the answer."""
    page.wait_for_function("() => document.querySelector('.map') && !document.querySelector('[data-room][aria-busy]')")
