"""`python -m validation cards` writes the table again."""

from calculator import catalogue
from validation.cards.command import TABLE, text


def test_rows_that_are_computed_again_leave_the_file_as_it_is(tmp_path):
    from validation.__main__ import main

    output = tmp_path / "cards.json"
    assert main(["cards", "--model", "pythia-70m", "--processes", "1", "--output", str(output)]) == 0
    assert output.read_text() == TABLE.read_text() == text(catalogue.read("cards.json")["rows"])
