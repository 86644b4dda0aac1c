from collections import Counter

from validation.comparison.matching import differences, unpaired
from validation.tracing.snapshot import Row, Snapshot, from_json, generalised, to_json

UP = Row("model.layers.*.mlp.up_proj", "output", (2, 8, 64), "bfloat16", 2048, "activations")
UP_TRACED = UP._replace(name="aten.mm", shape=(16, 64))
ACTIVATION = Row("model.layers.*.mlp", "activation", (2, 8, 64), "bfloat16", 2048, "activations")
ACTIVATION_TRACED = ACTIVATION._replace(path="model.layers.*.mlp.act_fn", name="aten.silu")
NORM = Row("model.norm", "rsqrt", (2, 8, 1), "float32", 512, "activations")


def snapshot(rows, ever=()):
    return Snapshot(
        parameters={"base": 1},
        static={"base_weights": 512},
        alive={"forward": Counter(rows)},
        operations={"forward": "somewhere"},
        ever=frozenset(row.kind for row in (*rows, *ever)),
    )


def told(estimated, traced):
    return [(d.kind, d.row, d.estimated, d.traced) for d in differences(estimated, traced, "forward")]


def test_equal_rows_leave_nothing_over():
    assert unpaired(Counter({UP: 3, NORM: 1}), Counter({UP: 3, NORM: 1})) == (Counter(), Counter())


def test_rows_are_paired_whatever_they_are_called_and_however_they_are_viewed():
    ours, theirs = Counter({UP: 2, ACTIVATION: 2}), Counter({UP_TRACED: 2, ACTIVATION_TRACED: 2})
    assert unpaired(ours, theirs) == (Counter(), Counter())


def test_a_row_that_only_the_trace_has_is_missing():
    assert told(snapshot({UP: 2}), snapshot({UP: 2, NORM: 1})) == [("missing", NORM, 0, 1)]


def test_a_row_that_only_the_calculator_has_is_extra():
    assert told(snapshot({UP: 2, NORM: 1}), snapshot({UP: 2})) == [("extra", NORM, 1, 0)]


def test_a_row_that_both_have_but_not_as_often_is_a_count():
    assert told(snapshot({UP: 3}), snapshot({UP_TRACED: 4})) == [("count", UP_TRACED, 3, 4)]


def test_a_row_that_lives_at_another_moment_is_a_span():
    assert told(snapshot({UP: 2}, ever=[NORM]), snapshot({UP: 2, NORM: 1})) == [("span", NORM, 0, 1)]


def test_differences_sum_to_the_difference_of_the_totals():
    ours, theirs = snapshot({UP: 5, NORM: 1}), snapshot({UP: 2, ACTIVATION: 4})
    found = differences(ours, theirs, "forward")
    assert sum(d.bytes for d in found) == ours.phases["forward"] - theirs.phases["forward"]


def test_the_largest_difference_comes_first():
    found = differences(snapshot({UP: 1, NORM: 9}), snapshot({}), "forward")
    assert [d.row for d in found] == [NORM, UP]


def test_numbers_and_adapter_names_are_generalised():
    path = "model.layers.11.self_attn.q_proj.lora_A.default"
    assert generalised(path) == "model.layers.*.self_attn.q_proj.lora_A"


def test_a_snapshot_survives_json():
    before = snapshot({UP: 3, NORM: 1})
    assert from_json(to_json(before)) == before
