from collections import Counter

from validation.comparison.matching import differences, unmatched
from validation.tracing.snapshot import Row, Snapshot, from_json, to_json, wildcard_path

UP = Row("model.layers.*.mlp.up_proj", "output", (2, 8, 64), "bfloat16", 2048, "activations")
UP_TRACED = UP._replace(name="aten.mm", shape=(16, 64))
ACTIVATION = Row("model.layers.*.mlp", "activation", (2, 8, 64), "bfloat16", 2048, "activations")
ACTIVATION_TRACED = ACTIVATION._replace(path="model.layers.*.mlp.act_fn", name="aten.silu")
NORM = Row("model.norm", "rsqrt", (2, 8, 1), "float32", 512, "activations")


def snapshot(rows, earlier=()):
    return Snapshot(
        parameters={"base": 1},
        static={"base_weights": 512},
        alive={"forward": Counter(rows)},
        operations={"forward": "somewhere"},
        kinds=frozenset(row.kind for row in (*rows, *earlier)),
    )


def classified(estimated, traced):
    return [(d.kind, d.row, d.estimated, d.traced) for d in differences(estimated, traced, "forward")]


def test_equal_rows_all_match():
    assert unmatched(Counter({UP: 3, NORM: 1}), Counter({UP: 3, NORM: 1})) == (Counter(), Counter())


def test_rows_match_with_any_names_and_views():
    ours, theirs = Counter({UP: 2, ACTIVATION: 2}), Counter({UP_TRACED: 2, ACTIVATION_TRACED: 2})
    assert unmatched(ours, theirs) == (Counter(), Counter())


def test_a_row_that_only_the_trace_has_is_missing():
    assert classified(snapshot({UP: 2}), snapshot({UP: 2, NORM: 1})) == [("missing", NORM, 0, 1)]


def test_a_row_that_only_the_calculator_has_is_extra():
    assert classified(snapshot({UP: 2, NORM: 1}), snapshot({UP: 2})) == [("extra", NORM, 1, 0)]


def test_a_row_that_one_side_has_more_often_is_a_count():
    assert classified(snapshot({UP: 3}), snapshot({UP_TRACED: 4})) == [("count", UP_TRACED, 3, 4)]


def test_a_row_that_is_alive_at_another_time_is_a_span():
    assert classified(snapshot({UP: 2}, earlier=[NORM]), snapshot({UP: 2, NORM: 1})) == [("span", NORM, 0, 1)]


def test_differences_sum_to_the_difference_of_the_totals():
    ours, theirs = snapshot({UP: 5, NORM: 1}), snapshot({UP: 2, ACTIVATION: 4})
    found = differences(ours, theirs, "forward")
    assert sum(d.bytes for d in found) == ours.phases["forward"] - theirs.phases["forward"]


def test_the_largest_difference_is_first():
    found = differences(snapshot({UP: 1, NORM: 9}), snapshot({}), "forward")
    assert [d.row for d in found] == [NORM, UP]


def test_a_wildcard_path_has_no_numbers_or_adapter_names():
    path = "model.layers.11.self_attn.q_proj.lora_A.default"
    assert wildcard_path(path) == "model.layers.*.self_attn.q_proj.lora_A"


def test_a_snapshot_survives_json():
    before = snapshot({UP: 3, NORM: 1})
    assert from_json(to_json(before)) == before
