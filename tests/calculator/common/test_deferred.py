from dataclasses import replace

from calculator.common.deferred import Deferred
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from tests.calculator.random_plans import plans


def test_a_value_is_computed_once_and_only_on_use():
    made = []
    later = Deferred(lambda: made.append("made") or len(made))
    assert made == []
    assert (later(), later(), made) == (1, 1, ["made"])


def test_a_components_bytes_are_the_sum_of_its_lazy_rows():
    for request in plans(5, 15):
        for part in estimate(replace(request, reserved="rule")).memory.components:
            assert part.bytes == sum(row.bytes for row in part.rows), (request, part.name)


def test_a_textbook_component_has_no_rows():
    body = {"model": {"parameters": 7_000_000_000}, "method": {"name": "full"}, "accounting": "textbook"}
    memory = estimate(parse_request(body)).memory
    assert [part.rows for part in memory.components] == [()] * len(memory.components)
    assert memory.timeline == ()
