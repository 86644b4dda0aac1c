"""The code of docs/python.md prints what the page shows."""

import doctest

from tests.paths import ROOT


def test_the_code_of_the_page_prints_what_the_page_shows():
    failed, tried = doctest.testfile(str(ROOT / "docs/python.md"), module_relative=False, encoding="utf-8")
    assert (failed, tried > 20) == (0, True)
