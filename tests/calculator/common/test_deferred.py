from calculator.common.deferred import Deferred
from calculator.estimate.estimate import estimate
from calculator.estimate.request import parse_request
from tests.calculator.random_plans import plans


def test_a_value_is_made_once_and_only_when_it_is_asked_for():
    made = []
    later = Deferred(lambda: made.append("made") or len(made))
    assert made == []
    assert (later(), later(), made) == (1, 1, ["made"])


def test_a_component_folds_the_rows_that_it_makes_later():
    for request in plans(5, 40):
        for part in estimate(request).memory.components:
            assert part.bytes == sum(row.bytes for row in part.rows), (request, part.name)


def test_a_textbook_component_has_no_rows():
    told = {"model": {"parameters": 7_000_000_000}, "method": {"name": "full"}, "accounting": "textbook"}
    memory = estimate(parse_request(told)).memory
    assert [part.rows for part in memory.components] == [()] * len(memory.components)
    assert memory.timeline == ()
