"""The caches of the last kinds of requests: answers are equal with and without them, in one thread and in several."""

from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from random import Random

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.recent_series import RECENT_SERIES, RecentSeries
from calculator.estimation.request import parse_request
from calculator.estimation.series import SeriesCache
from tests.calculator.random_plans import plans
from tests.calculator.training_step.test_first_layer import SMALL
from tests.calculator.training_step.test_symbolic_trace import full_answer
from tests.executed_lines import executed_lines

LORA = {"model": "meta-llama/Llama-3.1-8B", "method": {"name": "lora", "r": 16, "target_modules": "all-linear"}}


def of_length(length, body=LORA):
    return parse_request({**body, "training": {"sequence_length": length}})


def read(answer):
    return answer, [part.rows for part in answer.memory.components], answer.memory.timeline


@pytest.fixture(autouse=True)
def _forgotten():
    RECENT_SERIES.clear()


def test_answers_are_equal_with_and_without_earlier_requests():
    requests = [*plans(21, 10)] * 2
    Random(2).shuffle(requests)
    for request in requests:
        assert estimate(request) == estimate(request, SeriesCache())


SHARDINGS = ("none", "ddp", "fsdp", "zero1", "zero2", "zero3")


@pytest.mark.parametrize("optimizer", ["adamw_torch", "adamw_8bit"])
def test_answers_do_not_depend_on_the_shardings_of_earlier_requests(optimizer):
    shardings = [*SHARDINGS] * 2
    Random(3).shuffle(shardings)
    for sharding in ("none", "ddp", "none", *shardings):
        autocast = "bfloat16" if sharding.startswith("zero") else None
        training = {"gradient_checkpointing": True, "optimizer": optimizer, "autocast": autocast}
        device = {"gpu": "h100-sxm5-80gb", "count": 1 if sharding == "none" else 4, "sharding": sharding}
        body = {"model": "meta-llama/Llama-3.2-1B", "method": {"name": "full"}, "reserved": "rule"}
        request = parse_request({**body, "training": training, "device": device})
        if sharding == "fsdp" and optimizer == "adamw_8bit":
            continue  # bitsandbytes fails on FSDP's shards
        assert estimate(request) == estimate(request, SeriesCache()), sharding


def test_answers_of_one_image_and_of_several_do_not_depend_on_each_other():
    config = {"model_type": "vit", "hidden_size": 96, "num_attention_heads": 3, "image_size": 48, "patch_size": 16}
    body = {"model": {"config": {**config, "num_hidden_layers": 3, "intermediate_size": 200}}, "task": "image_cls"}
    for images in (3, 1, 3):
        training = {"micro_batch_size": images}
        request = parse_request({**body, "method": {"name": "full"}, "training": training, "reserved": "rule"})
        assert estimate(request) == estimate(request, SeriesCache())


def test_answers_of_several_threads_are_those_of_one():
    requests = [of_length(128 * (1 + number % 6)) for number in range(24)] + [*plans(22, 6)] * 2
    Random(3).shuffle(requests)
    expected = [full_answer(request) for request in requests]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda request: read(estimate(request, whole=True)), requests))
    for (answer, _, timeline), (alone, _, timeline_alone) in zip(found, expected, strict=True):
        assert (answer, timeline) == (alone, timeline_alone)


def test_a_kind_is_lent_to_one_request_at_a_time():
    recent, request = RecentSeries(), parse_request(LORA)
    with recent.borrow(request) as (_, first), recent.borrow(request) as (_, second):
        assert first is not second
    with recent.borrow(request) as (_, third):
        assert third is first


def test_the_cache_is_bounded_and_drops_the_oldest_kind():
    recent = RecentSeries(most=2)
    requests = [parse_request({**LORA, "training": {"dtype": dtype}}) for dtype in ("bfloat16", "float16", "float32")]
    lent = []
    for request in requests:
        with recent.borrow(request) as (_, series):
            lent.append(series)
    with recent.borrow(requests[2]) as (_, series):
        assert series is lent[2]
    with recent.borrow(requests[0]) as (_, series):
        assert series not in lent


def test_a_config_is_kept_as_text():
    """A caller may change a config after an answer, and Python takes true for 1."""
    config = deepcopy(SMALL)
    body = {"model": {"config": config}, "method": {"name": "lora"}, "training": {"sequence_length": 64}}
    first = estimate(parse_request(body))
    config["num_hidden_layers"] += 2
    assert estimate(parse_request(body)).parameters.base > first.parameters.base
    assert estimate(parse_request(body | {"model": {"config": SMALL}})) == first
    right = {**body, "model": {"config": {**SMALL, "tie_word_embeddings": True}}}
    estimate(parse_request(right))
    with pytest.raises(PlanError, match="true or false"):
        estimate(parse_request({**body, "model": {"config": {**SMALL, "tie_word_embeddings": 1}}}))


def test_a_refused_request_leaves_no_cache():
    recent = RecentSeries()
    request = parse_request(LORA)
    with pytest.raises(ZeroDivisionError), recent.borrow(request) as (_, series):
        1 // 0  # noqa: B018  something fails
    with recent.borrow(request) as (_, other):
        assert other is not series


def test_all_plans_of_a_kind_but_the_first_execute_few_lines():
    """`validation bench` prints what they take in time."""
    ruled = {**LORA, "reserved": "rule"}
    estimate(of_length(1024, ruled))
    second, *others = [of_length(1088 + 64 * number, ruled) for number in range(12)]
    # In the second, no length is equal to the width of the keys.
    assert executed_lines(lambda: estimate(second)) < 10_000
    assert executed_lines(lambda: [estimate(request) for request in others]) < 7000 * len(others)


def test_the_first_answer_is_traced_by_the_rule_on_one_gpu():
    sharded = {"device": {"gpu": "h100-sxm5-80gb", "count": 2, "sharding": "ddp"}}
    for body, traced in (
        ({"reserved": "rule"}, True),
        ({"reserved": "replay"}, False),
        ({"reserved": "rule", **sharded}, False),
    ):
        request = parse_request({**LORA, **body, "training": {"dtype": "float16"}})
        RECENT_SERIES.clear()
        estimate(request)
        with RECENT_SERIES.borrow(request) as (_, series):
            assert any(run.traces for run in series.traces.runs.values()) is traced


@pytest.mark.parametrize("reserved", ["rule", "replay"])
def test_a_run_on_another_gpu_shares_the_step_unless_its_kernels_differ(reserved):
    small = {"model": {"config": SMALL}, "method": {"name": "lora"}, "reserved": reserved}
    series, steps = SeriesCache(), []
    for gpu in ("rtx-4090", "h100-sxm5-80gb", None, "t4"):
        request = parse_request({**small, "device": {"gpu": gpu}, "training": {"sequence_length": 64}})
        assert read(estimate(request, series)) == read(estimate(request, SeriesCache()))
        steps.append(series.step)
    assert [step is steps[0] for step in steps] == [True, True, True, False]


def test_the_rows_of_a_run_on_another_gpu_are_those_of_the_first():
    series, rows = SeriesCache(), []
    for gpu in ("rtx-4090", "l40s", "t4"):
        request = parse_request({**LORA, "device": {"gpu": gpu}, "reserved": "rule"})
        rows.append({part.name: part.rows for part in estimate(request, series, whole=True).memory.components})
    assert all(rows[1][name] is rows[0][name] for name in rows[0])
    assert rows[2]["activations"] is not rows[0]["activations"]
    assert rows[2]["base_weights"] is rows[0]["base_weights"]  # kernels change no resident tensor


def test_each_sharding_has_the_buckets_of_its_run():
    body = {"model": "meta-llama/Llama-3.2-1B", "method": {"name": "full"}, "reserved": "rule"}
    alone = parse_request(body)
    sharded = parse_request({**body, "device": {"gpu": "h200", "count": 4, "sharding": "ddp"}})
    for request in (alone, sharded, alone):
        assert estimate(request) == estimate(request, SeriesCache())


def answered(request, series=None):
    """The answer, or the problems of a refused request."""
    try:
        return estimate(request, series)
    except PlanError as error:
        return error.problems


@pytest.mark.parametrize(
    "body",
    [
        {**LORA, "training": {"dtype": "float32", "padding": False}},  # a warning has the gigabytes of scores
        {"model": "gpt2", "method": {"name": "prefix", "num_virtual_tokens": 8}},  # 1,024 positions
        {
            "model": "gpt2",
            "method": {"name": "lora", "r": 1},
            "training": {"trainer": "trl-sft", "completion_tokens": 64},
        },
    ],
)
def test_checks_and_messages_are_those_of_the_sizes(body):
    training = body.get("training", {})
    for length in (64, 65, 200, 1016, 1017, 64, 900, 32):
        request = parse_request({**body, "training": {**training, "sequence_length": length}})
        assert answered(request) == answered(request, SeriesCache())
