"""The largest value that fits by replay: it runs without a retry, one more does not, and few values are replayed."""

import pytest

from calculator.devices import Verdict
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.limit_search import replays
from calculator.limit_search.limits import limit, parse_limit
from calculator.limit_search.replays import Replays
from tests.calculator.limit_search.random_limits import faults, requests

GPT2 = {"model": "gpt2", "method": {"name": "lora"}, "device": {"memory_bytes": 2 << 30}}
QLORA = {
    "model": "meta-llama/Llama-3.1-8B",
    "method": {"name": "qlora", "r": 16, "target_modules": "all-linear"},
    "training": {"gradient_checkpointing": True},
    "device": {"gpu": "rtx-4090"},
}
#: Its tokens fill the GPU before the whole batch of logits does.
TIGHT = {
    "model": "Qwen/Qwen3-0.6B",
    "method": {"name": "adapter"},
    "training": {"gradient_checkpointing": True},
    "device": {"memory_bytes": 12 << 30},
}


def solved(body, solve_for, **changes):
    return limit(parse_limit({**body, **changes, "solve_for": solve_for}))


def verdict_of(body, name, value):
    """The verdict of a value of one setting, by an estimate of its own."""
    part = "method" if name in ("r", "bottleneck_size", "num_virtual_tokens") else "training"
    request = {key: setting for key, setting in body.items() if key != "solve_for"}
    return estimate(parse_request({**request, part: {**request.get(part, {}), name: value}})).fit.verdict


@pytest.mark.parametrize("number", range(6))
def test_a_random_limit_fits_by_its_own_estimate_and_one_more_does_not(number):
    body = requests(31, 6, "replay")[number]
    answer = limit(parse_limit(body))
    name = answer.solve_for
    assert list(faults(answer)) == []
    if answer.value is not None:
        assert verdict_of(body, name, answer.value) is Verdict.FITS
    if answer.bound.by == "memory":
        assert verdict_of(body, name, answer.above.value) is not Verdict.FITS


@pytest.mark.parametrize(
    ("model", "method", "training", "memory_gib", "solve_for"),
    [
        ("gpt2", {"name": "lora"}, {"micro_batch_size": 2, "attention": "eager"}, 2, "sequence_length"),
        ("gpt2", {"name": "full"}, {"sequence_length": 256, "gradient_checkpointing": True}, 4, "micro_batch_size"),
        ("HuggingFaceTB/SmolLM2-135M", {"name": "prefix"}, {"sequence_length": 512}, 4, "micro_batch_size"),
        ("google/gemma-3-270m", {"name": "qlora"}, {"sequence_length": 512}, 8, "micro_batch_size"),
        ("Qwen/Qwen3-0.6B", {"name": "adapter"}, {"sequence_length": 512}, 6, "bottleneck_size"),
    ],
    ids=lambda value: value if isinstance(value, str) and "_" in value else None,
)
def test_every_value_around_the_limit_equals_a_single_estimate(model, method, training, memory_gib, solve_for):
    body = {"model": model, "method": method, "training": training, "device": {"memory_bytes": memory_gib << 30}}
    answer = solved(body, solve_for)
    assert answer.bound.by == "memory"
    around = range(max(2, answer.value - 3), answer.value + 4)
    fitting = [value for value in around if verdict_of(body, solve_for, value) is Verdict.FITS]
    assert fitting == [value for value in around if value <= answer.value]


def test_more_fits_by_replay_than_by_the_rule():
    replayed, ruled = solved(QLORA, "sequence_length"), solved(QLORA, "sequence_length", reserved="rule")
    assert ruled.value < replayed.value
    assert replayed.at.estimate.reserved == replayed.above.estimate.reserved == "replay"
    assert replayed.at.estimate == estimate(
        parse_request({**QLORA, "training": {**QLORA["training"], "sequence_length": replayed.value}})
    )


def test_few_values_are_replayed_and_none_whose_live_tensors_do_not_fit(monkeypatch):
    tried = []
    replay_of = Replays._replay

    def counted(self, value):
        assert self.ruled.probe(value).least_excess <= 0
        tried.append(value)
        return replay_of(self, value)

    monkeypatch.setattr(replays.Replays, "_replay", counted)
    for body in requests(5, 6, "replay"):
        tried.clear()
        limit(parse_limit(body))
        assert len(tried) == len(set(tried)) <= 20, body


def test_the_last_length_that_kernels_align_to_is_found_with_few_replays(monkeypatch):
    tried, replayed = [], Replays._replayed
    monkeypatch.setattr(Replays, "_replayed", lambda self, value: tried.append(value) or replayed(self, value))
    body = {
        "model": "google/gemma-3-270m",
        "method": QLORA["method"],
        "training": {"gradient_checkpointing": True},
        "device": {"gpu": "l4"},
    }
    answer = solved(body, "sequence_length")
    assert list(faults(answer)) == []
    assert answer.value % 8 == 0
    assert {answer.value, answer.above.value, answer.value + 8, answer.value + 16} <= set(tried)
    assert len(tried) == 7


def test_the_requests_own_value_is_the_answer_if_it_fits_above_others_that_do_not():
    """Blocks of logits and of layers are shared at some lengths and not at others."""
    body = {
        "model": "meta-llama/Llama-3.1-8B",
        "method": {"name": "full"},
        "training": {"gradient_checkpointing": True, "optimizer": "adamw_8bit"},
        "device": {"gpu": "h200"},
    }
    usual = solved(body, "sequence_length").value
    training = {**body["training"], "sequence_length": 57_344}
    assert verdict_of(body, "sequence_length", usual + 1) is not Verdict.FITS
    answer = solved({**body, "training": training}, "sequence_length")
    assert usual < 57_344 <= answer.value
    assert list(faults(answer)) == []


def test_a_larger_value_may_run_with_retries():
    answer = solved(TIGHT, "sequence_length")
    most = answer.largest_with_retries
    assert answer.above.estimate.fit.verdict is Verdict.TIGHT
    assert verdict_of(TIGHT, "sequence_length", most) is Verdict.TIGHT
    assert answer.value < most


def test_no_value_runs_with_retries_if_the_next_one_runs_out_of_memory():
    answer = solved(GPT2, "r")
    assert answer.above.estimate.fit.verdict is Verdict.DOES_NOT_FIT
    assert answer.largest_with_retries == answer.value


def test_the_rule_has_no_retries():
    assert solved(GPT2, "r", reserved="rule").largest_with_retries is None
    bounded = solved({**GPT2, "device": {"memory_bytes": 1 << 50}}, "sequence_length")
    assert bounded.largest_with_retries == bounded.value == 1024


def test_the_allocators_settings_count():
    usual = solved(GPT2, "sequence_length")
    expandable = {**GPT2["device"], "alloc_conf": "expandable_segments:True"}
    assert solved(GPT2, "sequence_length", device=expandable).value >= usual.value


def test_a_value_that_nothing_fits_states_the_smallest():
    answer = solved({**GPT2, "device": {"memory_bytes": 1 << 29}}, "sequence_length")
    assert (answer.value, answer.above.value, answer.largest_with_retries) == (None, 2, None)
