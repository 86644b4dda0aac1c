"""The validation page's groups are folds over the committed rows."""

from app import evidence
from app.measurements import MeasuredAnswer, validation

PUBLISHED = validation().published
WHOLE = evidence.whole(PUBLISHED)


def test_alike_figures_that_are_far_off_stand_together_the_furthest_first():
    groups = evidence.worst(WHOLE)
    furthest = [max(abs(row.error) for row in group.rows) for group in groups]
    assert furthest == sorted(furthest, reverse=True)
    assert abs(groups[0].first.error) == max(abs(row.error) for row in WHOLE)
    assert sum(len(group.rows) for group in groups) == sum(abs(row.error) >= evidence.WORST for row in WHOLE)


def test_every_row_is_said_whole_in_part_or_not():
    counted = [group.figures for kind in ("in part", "not") for group in evidence.unsaid(PUBLISHED, kind)]
    assert sum(counted) + sum(row.expressed == "whole" for row in PUBLISHED.rows) == len(PUBLISHED.rows)


def test_every_reason_is_counted():
    for group in evidence.unsaid(PUBLISHED, "not"):
        rows = [row for row in PUBLISHED.rows if row.source == group.source and row.expressed == "not"]
        assert dict(group.reasons) == {
            reason: sum(reason in row.differs for row in rows) for row in rows for reason in row.differs
        }


def test_every_figure_has_an_environment():
    assert sum(each.figures for each in evidence.environments(WHOLE)) == len(WHOLE)


STEP = {
    "name": "lora",
    "request": {"method": {"name": "lora"}},
    "predicted": {"peak_allocated": 90, "library_workspace": 10, "reserved_replay": 120, "required": 200},
    "measured": {"peak_allocated": 100, "peak_reserved": 100, "driver": None},
    "out_of_memory": None,
}


def test_a_measured_step_stands_beside_its_estimate():
    answer = MeasuredAnswer(environment={}, layers=(), steps=(STEP, {**STEP, "measured": None}), verdicts=())
    assert [(step.statistic, step.error) for step in evidence.steps(answer)] == [
        ("max_memory_allocated", 0.0),
        ("max_memory_reserved", 0.2),
    ]


def test_a_copy_without_results_shows_none():
    assert evidence.shown(None) == {"published": None}
