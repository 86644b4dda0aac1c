"""The links of the documentation, its paths and the names that it places in files exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def relative_links(page):
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")) if "://" not in link]


def anchors(page):
    """The anchors of a page's headings, as GitHub spells them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def names_in_files(page):
    """Yield the names that a page places in a file, as in `FIRST` and `TRACED` of `calculator/stack/models.py`."""
    text = " ".join(page.read_text(encoding="utf-8").split())
    for match in re.finditer(r"((?:`\w+`(?:, | and | or )?)+) (?:in|of) `(\w+/[\w/]+\.py)`", text):
        yield from ((name, ROOT / match[2]) for name in re.findall(r"`(\w+)`", match[1]))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_names_that_a_page_places_in_a_file_are_defined_there(page):
    for name, path in names_in_files(page):
        definition = rf"^\s*(?:class |def )?{name}\b *[(:=\[]"
        assert re.search(definition, path.read_text(encoding="utf-8"), re.MULTILINE), (name, path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_has_a_target(page):
    for link in relative_links(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_of_accuracy_is_linked_from_the_first():
    linked = set(relative_links(ROOT / "docs" / "accuracy.md"))
    assert {f"accuracy/{page.name}" for page in (ROOT / "docs" / "accuracy").iterdir()} <= linked
