"""Numbers by name and lists of numbers in forms and on the command line."""

import pytest

from app.forms.fields import METHOD
from app.forms.numbers_by_name import read_numbers_by_name, text_of_numbers, whole_numbers

FIELDS = {field.declared.name: field for field in METHOD["lora"]}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("q_proj: 16, mlp.down_proj=4", {"q_proj": 16, "mlp.down_proj": 4}),
        ('{"q_proj": 16}', {"q_proj": 16}),
        ("", {}),
        ("q_proj: many", {"q_proj": "many"}),
        ("16", "16"),
        ("a: 1, a: 2", "a: 1, a: 2"),
    ],
)
def test_ranks_are_typed_as_names_and_numbers(text, value):
    assert FIELDS["rank_pattern"].value(text) == value


def test_a_field_shows_what_was_typed():
    assert FIELDS["rank_pattern"].text({"q_proj": 16, "v_proj": 4}) == "q_proj: 16, v_proj: 4"
    odd = {"a,b": 1}
    assert text_of_numbers(odd) == '{"a,b": 1}'
    assert read_numbers_by_name("q_proj: 0.5") == {"q_proj": 0.5}


@pytest.mark.parametrize(
    ("text", "value"), [("0 3, 8-10", [0, 3, 8, 9, 10]), ("", None), ("[1, 2]", [1, 2]), ("9-8", ["9-8"])]
)
def test_layers_are_typed_as_numbers_and_ranges(text, value):
    assert FIELDS["layers_to_transform"].value(text) == value
    assert FIELDS["layers_to_transform"].text([0, 3]) == "0, 3"


def test_a_long_range_is_no_list():
    assert whole_numbers(["0-99999"]) == ["0-99999"]


def test_tokens_are_typed_as_numbers_and_ranges():
    (tokens,) = METHOD["trainable_tokens"]
    assert (tokens.control, tokens.value("5, 128000-128001")) == ("text", [5, 128_000, 128_001])
    assert tokens.default_text == "0"
