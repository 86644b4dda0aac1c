"""The validation page's groups are computed from the committed rows."""

from app.api.answers.validation import MeasuredAnswer, validation
from app.pages.validation import view as validation_view

PUBLISHED = validation().published
WHOLE = validation_view.whole(PUBLISHED)


def test_groups_of_similar_figures_are_sorted_by_their_largest_error():
    groups = validation_view.worst(WHOLE)
    furthest = [max(abs(row.error) for row in group.rows) for group in groups]
    assert furthest == sorted(furthest, reverse=True)
    assert abs(groups[0].first.error) == max(abs(row.error) for row in WHOLE)
    assert sum(len(group.rows) for group in groups) == sum(abs(row.error) >= validation_view.WORST for row in WHOLE)


def test_every_row_is_expressed_as_a_whole_in_part_or_not_at_all():
    counted = [group.figures for kind in ("in part", "not") for group in validation_view.unexpressed(PUBLISHED, kind)]
    assert sum(counted) + sum(row.expressed == "whole" for row in PUBLISHED.rows) == len(PUBLISHED.rows)


def test_the_counts_of_sources_are_those_of_the_rows():
    counts = validation_view.counts(PUBLISHED)
    assert {count.source for count in counts} == {source.name for source in PUBLISHED.sources}
    assert sum(count.figures for count in counts) == len(PUBLISHED.rows)
    assert sum(count.whole for count in counts) == len(WHOLE)
    assert [count.whole for count in counts] == sorted((count.whole for count in counts), reverse=True)


def test_every_reason_is_counted():
    for group in validation_view.unexpressed(PUBLISHED, "not"):
        rows = [row for row in PUBLISHED.rows if row.source == group.source and row.expressed == "not"]
        assert dict(group.reasons) == {
            reason: sum(reason in row.differs for row in rows) for row in rows for reason in row.differs
        }


def test_every_figure_has_an_environment():
    assert sum(environment.figures for environment in validation_view.environments(WHOLE)) == len(WHOLE)


STEP = {
    "name": "lora",
    "request": {"method": {"name": "lora"}},
    "predicted": {"peak_allocated": 90, "library_workspace": 10, "reserved_replay": 120, "required": 200},
    "measured": {"peak_allocated": 100, "peak_reserved": 100, "driver": None},
    "out_of_memory": None,
}


def test_a_measured_step_is_shown_next_to_its_estimate():
    answer = MeasuredAnswer(environment={}, layers=(), steps=(STEP, {**STEP, "measured": None}), verdicts=())
    assert [(step.statistic, step.error) for step in validation_view.steps(answer)] == [
        ("max_memory_allocated", 0.0),
        ("max_memory_reserved", 0.2),
    ]


def test_a_copy_without_results_shows_none():
    assert validation_view.context(None) == {"published": None}
