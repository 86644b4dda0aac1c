"""The table of phases in docs/accuracy/whole_run.md has every traced case, all of them equal.

`tests/calculator/run` compares the cases themselves.
"""

from collections import Counter

from validation.comparison.phase_traces import body_of_step
from validation.comparison.phases import BEGIN, END, PAGE, compared, groups, lines


def test_the_documented_table_is_that_of_the_cases():
    cases = Counter(group for group, _ in groups())
    table = PAGE.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0].strip()
    assert table == "\n".join(lines(cases, cases))
    assert sum(cases.values()) > 80


def test_a_phase_is_compared_with_its_traced_bytes():
    group, predicted, traced = next(compared())
    assert group == ("evaluation", "one GPU")
    assert predicted == traced > 0


def test_a_trace_has_the_trainer_of_the_run():
    request = {"model": "gpt2", "training": {"sequence_length": 8}, "run": {}, "reserved": "rule"}
    assert body_of_step({"request": request}) == {
        "model": "gpt2",
        "training": {"sequence_length": 8, "trainer": "transformers"},
    }
