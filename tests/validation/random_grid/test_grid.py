from collections import Counter

import pytest

from validation.random_grid import table
from validation.random_grid.grid import drawn
from validation.random_grid.journal import Journal
from validation.tracing.snapshot import Row, Snapshot

REQUEST = {"model": {"config": {"model_type": "llama"}}, "method": {"name": "full"}, "training": {"dtype": "float16"}}
STATIC = {"base_weights": 512}


def snapshot(forward, backward=0, parameters=3):
    def row(size):
        return Counter({Row("model.norm", "output", (size,), "bfloat16", size, "activations"): 1})

    return Snapshot(
        parameters={"base": parameters},
        static=STATIC,
        alive={"forward": row(forward), "backward": row(backward)},
        operations={"forward": "a", "backward": "b"},
        kinds=frozenset(),
    )


def case(estimated, traced, **more):
    return table.Case(number=1, request=REQUEST, estimated=estimated, traced=traced, **more)


def test_exact_answers_meet_every_target():
    text, missed = table.document([case(snapshot(1000), snapshot(1000))])
    assert not missed
    assert "every phase to the byte in 1 of 1" in text


@pytest.mark.parametrize(
    ("estimated", "target"),
    [
        (snapshot(1000, parameters=4), "no mismatch in parameter counts"),
        (snapshot(1002), "median error"),
        (snapshot(1006), "95 % within 0.5 %"),
        (snapshot(1011), "99 % within 1 %"),
        (snapshot(989), "none under-predicted"),
        (snapshot(10, 1000), "the peak's phase"),
    ],
)
def test_a_missed_target_is_reported(estimated, target):
    text, missed = table.document([case(estimated, snapshot(1000))])
    assert missed
    assert any(line.startswith(f"MISSED  {target}") for line in text.splitlines())


def test_a_case_with_an_error_shows_the_row():
    text, _ = table.document([case(snapshot(1000, 700), snapshot(1000, 512))])
    assert "+188" in text
    assert "model.norm: output" in text


def test_groups_are_by_family_method_and_requested_fields():
    text, _ = table.document([case(snapshot(1000), snapshot(1000))], ["training.dtype"])
    rows = [line.split(" | ")[0] for line in text.splitlines()]
    assert [row for row in rows if row.startswith("| ")][1:] == [
        "| all",
        "| model_type: llama",
        "| method.name: full",
        "| training.dtype: float16",
    ]


def test_refusals_are_counted_by_who_refuses():
    cases = [
        case(snapshot(1000), snapshot(1000)),
        case(None, None, refusal="no heads", real_refusal="ValueError: no heads"),
        case(None, snapshot(1), refusal="too long"),
        case(None, None, refusal="sharded runs are not modeled yet"),
        case(snapshot(1), None, real_refusal="TypeError: no"),
    ]
    text, _ = table.document(cases)
    for line in ("both: 1", "as not modeled, not traced: 1", "calculator alone: 1", "answered, but not traced: 1"):
        assert line in text


def test_a_grid_without_comparisons_fails():
    assert table.document([case(snapshot(1), None, real_refusal="TypeError")])[1]


def test_requests_are_drawn_until_enough_are_answered():
    cases = drawn(3, 10, ["llama", "gpt2"])
    assert sum(case.refusal is None for case in cases) == 10
    assert [case.number for case in cases] == list(range(len(cases)))
    assert cases[-1].refusal is None


def test_stored_traces_are_reused_unless_other_code_made_them(tmp_path):
    path = tmp_path / "build" / "grid.jsonl"
    Journal(path, "one").add(REQUEST, {"refused": "no"})
    again = Journal(path, "one")
    assert REQUEST in again
    assert again.get(REQUEST)["refused"] == "no"
    assert REQUEST not in Journal(path, "another")
    assert REQUEST in Journal(path, None)
    assert {**REQUEST, "method": {"name": "lora"}} not in again


def test_a_line_that_was_cut_off_is_ignored(tmp_path):
    path = tmp_path / "grid.jsonl"
    Journal(path, "one").add(REQUEST, {"refused": "no"})
    path.write_text(path.read_text() + '\n{"key"')
    assert REQUEST in Journal(path, "one")


def test_a_grid_of_one_field_draws_only_requests_that_set_it():
    whole = [case for case in drawn(3, 12, ["llama"]) if case.sets("training.padding")]
    only = drawn(3, 3, ["llama"], "training.padding")
    assert all(case.request["training"]["padding"] for case in only)
    assert [case.number for case in only][: len(whole)] == [case.number for case in whole][: len(only)]


def test_a_grid_of_a_trainer_draws_its_requests_on_one_gpu_and_on_several():
    one = drawn(3, 2, ["llama"], trainers=["trl-dpo"])
    several = drawn(3, 2, ["llama"], trainers=["trl-dpo"], sharding="zero2")
    assert {case.field("training.trainer") for case in (*one, *several)} == {"trl-dpo"}
    assert {case.field("device.sharding") for case in several} == {"zero2"}
