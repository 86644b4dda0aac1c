"""The largest value that fits by the rule: it does, one more does not, and what bounds it is named."""

import gc

import pytest

from calculator.allocator.out_of_memory import format_size
from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.lesson import LESSON
from calculator.limit_search import probes
from calculator.limit_search.limits import limit, parse_limit
from tests.calculator.limit_search.random_limits import faults, larger, requests

LLAMA_13B = {
    "model": "meta-llama/Llama-2-13b-hf",
    "method": {"name": "qlora", "r": 16, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]},
    "training": {"sequence_length": 2048, "gradient_checkpointing": True},
    "device": {"gpu": "rtx-4090"},
}
LLAMA_8B = {**LLAMA_13B, "model": "meta-llama/Llama-3.1-8B"}
LLAMA_70B = {**LLAMA_13B, "model": "meta-llama/Llama-3.1-70B"}
GPT2 = {"model": "gpt2", "method": {"name": "lora"}, "device": {"memory_bytes": 24 << 30}}

#: More than any of these needs, bytes.
PLENTY = {"memory_bytes": 1 << 50}


def solved(body, solve_for, **changes):
    return limit(parse_limit({"reserved": "rule", **body, **changes, "solve_for": solve_for}))


def answered(body, method):
    return estimate(parse_request({"reserved": "rule", **body, "method": {**body["method"], **method}}))


@pytest.mark.parametrize("number", range(8))
def test_a_random_limit_fits_and_one_more_does_not(number):
    body = requests(20, 8)[number]
    answer = limit(parse_limit(body))
    assert list(faults(answer)) == []
    if answer.bound.by == "memory" and answer.above.least_excess <= 0:
        assert larger(body, answer, 8) == []


def test_the_estimates_show_that_the_value_fits_and_one_more_does_not():
    answer = solved(LLAMA_13B, "r")
    here, above = (answered(LLAMA_13B, {"r": answer.value + more}) for more in (0, 1))
    assert (here, above) == (answer.at.estimate, answer.above.estimate)
    assert here.memory.required_bytes <= here.fit.usable_bytes < above.memory.required_bytes
    more = above.memory.required_bytes - answer.bound.limit
    assert f"would require {format_size(more)} more than the" in answer.bound.reason


def test_example_2_of_the_lesson_fits_at_rank_256_but_not_under_8_gb():
    """The lesson: 13B with QLoRA on a 24 GB GPU stays "under 8 GB" at r 256; how high it can go it leaves open."""
    (lesson,) = [
        figure for figure in LESSON if figure.section.startswith("Example 2") and "stays under" in figure.claim
    ]
    assert (lesson.claim, lesson.high, lesson.unit) == ("total with r 256 stays under", 8, "GB")
    assert round(answered(LLAMA_13B, {"r": 256}).memory.peak_allocated_bytes / 1e9, 1) == 16.3
    answer = solved(LLAMA_13B, "r")
    assert (answer.value, answer.bound.by) == (341, "memory")
    # Blocks of more than a third of 20 MiB fit twice into a segment, not three times: 5,120 × 341 × 4 bytes are less.
    assert 5120 * 341 * 4 < (20 << 20) / 3 < 5120 * 342 * 4


@pytest.mark.parametrize(
    "method",
    [
        {"name": "gralora", "gralora_k": 4, "target_modules": ["q_proj", "o_proj"]},
        {
            "name": "lora",
            "target_modules": ["q_proj", "o_proj"],
            "use_bdlora": {"target_modules_bd_a": ["o_proj"], "target_modules_bd_b": ["q_proj"], "nblocks": 4},
        },
    ],
    ids=lambda method: method["name"],
)
def test_a_rank_that_must_be_a_multiple_is_solved_in_multiples(method):
    body = {"model": "meta-llama/Llama-3.2-1B", "method": method, "training": {"sequence_length": 64}}
    answer = solved(body, "r", device={"memory_bytes": 4_000_000_000})
    assert (answer.value % 4, answer.above.value) == (0, answer.value + 4)
    assert f"{answer.value:,} fits and {answer.above.value:,} does not" in answer.guarantee


def test_rank_is_bounded_by_the_widest_matrix_and_a_warning_names_smaller_ones():
    answer = solved(LLAMA_8B, "r", device=PLENTY)
    assert (answer.value, answer.bound.by, answer.bound.limit) == (4096, "matrix", 4096)
    assert answer.guarantee == "4,096 fits. The limit is not memory, so larger values were not searched."
    assert "smaller side of q_proj is 4,096" in answer.bound.reason
    (warning,) = answer.warnings
    assert warning.startswith("r 4,096 is larger than the smaller side of k_proj (1,024), v_proj (1,024)")
    assert answer.above.fits


def test_a_sequence_is_bounded_by_the_models_context_less_virtual_tokens():
    answer = solved(GPT2, "sequence_length")
    assert (answer.value, answer.bound.by, answer.above) == (1024, "context_length", None)
    prompted = solved(GPT2, "sequence_length", method={"name": "prompt", "num_virtual_tokens": 24})
    assert (prompted.value, prompted.bound.limit) == (1000, 1000)
    rotary = solved(LLAMA_8B, "sequence_length", device=PLENTY)
    assert (rotary.value, rotary.bound.by) == (131_072, "context_length")
    assert rotary.above.value == 131_073


@pytest.mark.parametrize(
    ("model", "most", "reason"),
    [
        ("roberta-base", 512, "the model has 512 positions"),
        ("ai21labs/AI21-Jamba-1.5-Mini", 1024, "jamba runs one position after the other"),
    ],
)
def test_a_sequence_is_bounded_by_positions_that_run_where_the_config_states_more(model, most, reason):
    body = {"model": model, "method": {"name": "prompt", "num_virtual_tokens": 12}, "device": PLENTY}
    task = {"task": "seq_cls"} if model == "roberta-base" else {}
    answer = solved({**body, **task}, "sequence_length")
    assert (answer.value, answer.bound.by, answer.above) == (most - 12, "context_length", None)
    assert answer.bound.reason.startswith(reason)


def test_virtual_tokens_are_bounded_by_the_positions_that_the_sequence_leaves():
    body = {**GPT2, "method": {"name": "prompt"}, "training": {"sequence_length": 1000}}
    answer = solved(body, "num_virtual_tokens")
    assert (answer.value, answer.bound.by) == (24, "context_length")
    full = {**LLAMA_8B, "method": {"name": "prompt"}, "training": {"sequence_length": 131_072}}
    none = solved(full, "num_virtual_tokens", device=PLENTY)
    assert (none.value, none.bound.by, none.above.value) == (None, "context_length", 1)


def test_a_missing_length_is_the_default_of_an_estimate():
    assert solved({**GPT2, "method": {"name": "prompt"}}, "num_virtual_tokens").value == 20


def test_a_batch_may_be_bounded_by_its_fields_maximum():
    answer = solved({**GPT2, "training": {"sequence_length": 2}}, "micro_batch_size", device=PLENTY)
    assert (answer.value, answer.bound.by, answer.above) == (65_536, "field_maximum", None)
    assert answer.bound.reason == "micro_batch_size is at most 65,536 here"


def test_a_bottleneck_is_bounded_by_memory():
    answer = solved({**GPT2, "method": {"name": "adapter"}}, "bottleneck_size")
    assert (answer.bound.by, answer.above.value) == ("memory", answer.value + 1)


def test_if_nothing_fits_the_smallest_value_shows_why():
    answer = solved({**LLAMA_70B, "method": {"name": "lora"}}, "micro_batch_size")
    assert (answer.value, answer.at, answer.bound.by, answer.above.value) == (None, None, "memory", 1)
    assert answer.guarantee == "Not even the live tensors fit with 1, the smallest value."


def test_a_tight_smallest_value_is_no_answer_but_larger_ones_are_tried():
    required = answered(GPT2, {"r": 1}).memory.required_bytes
    answer = solved(GPT2, "r", device={"memory_bytes": required - 1})
    assert answer.value is None
    assert answer.guarantee == (
        "1 does not fit, nor does 768, the largest possible value; between, 36 values were tried and none fits."
    )


@pytest.mark.parametrize(
    ("model", "method", "training", "device", "solve_for", "value"),
    [
        (
            "meta-llama/Llama-3.1-8B",
            {"name": "full"},
            {"gradient_checkpointing": True, "micro_batch_size": 8},
            {"gpu": "a100-sxm4-80gb"},
            "sequence_length",
            256,
        ),
        (
            "meta-llama/Llama-3.2-1B",
            {"name": "lora", "r": 16, "lora_alpha": 16},
            {
                "gradient_checkpointing": True,
                "micro_batch_size": 16,
                "gradient_accumulation_steps": 2,
                "attention": "eager",
            },
            {"memory_bytes": 105_528_688_640},
            "r",
            16,
        ),
        (
            "Qwen/Qwen2.5-32B",
            {"name": "adapter"},
            {"gradient_checkpointing": True, "micro_batch_size": 8, "sequence_length": 512, "optimizer": "sgd"},
            {"gpu": "h20"},
            "bottleneck_size",
            2048,
        ),
        (
            "HuggingFaceTB/SmolLM2-1.7B",
            {"name": "prompt"},
            {"sequence_length": 512, "padding": True},
            {"memory_bytes": 8_480_210_538},
            "num_virtual_tokens",
            848,
        ),
    ],
    ids=["sizes meet", "its own value", "a power of two", "aligned"],
)
def test_a_larger_value_that_needs_less_is_found(model, method, training, device, solve_for, value):
    body = {"model": model, "method": method, "training": training, "device": device, "solve_for": solve_for}
    body["reserved"] = "rule"
    answer = limit(parse_limit(body))
    assert (answer.value, list(faults(answer))) == (value, [])
    assert larger(body, answer, 40) == []


def test_the_value_in_the_request_is_not_used():
    assert (
        solved(LLAMA_13B, "r").value == solved({**LLAMA_13B, "method": {**LLAMA_13B["method"], "r": 9000}}, "r").value
    )


@pytest.mark.parametrize("solve_for", ["r", "sequence_length", "micro_batch_size"])
def test_few_estimates_are_enough_for_a_large_model(solve_for, monkeypatch):
    estimated = []
    monkeypatch.setattr(probes, "estimate", lambda request, _: estimated.append(request) or estimate(request))
    solved(LLAMA_70B, solve_for, device={"gpu": "h100-80gb"})
    assert len(estimated) <= 120


def test_no_limit_of_many_needs_more_than_about_a_hundred_estimates(monkeypatch):
    estimated = []
    monkeypatch.setattr(probes, "estimate", lambda request, _: estimated.append(request) or estimate(request))
    for body in requests(1, 12):
        estimated.clear()
        limit(parse_limit(body))
        assert len(estimated) <= 120, body


@pytest.mark.parametrize(
    ("body", "solve_for", "loc", "message"),
    [
        ({**GPT2, "device": {}}, "sequence_length", "device", "a limit needs a GPU"),
        ({**GPT2, "device": {"gpu": "abacus"}}, "r", "device.gpu", "not in the catalogue"),
        (
            {**GPT2, "method": {"name": "full"}},
            "r",
            "solve_for",
            "full has no r: solve for sequence_length, micro_batch",
        ),
        ({**GPT2, "accounting": "textbook"}, "sequence_length", "accounting", "counts no activations"),
        ({**GPT2, "device": {"gpu": "rtx-4090", "count": 2}}, "r", "device.count", "not modeled here"),
        ({**GPT2, "device": {"gpu": "rtx-4090", "sharding": "zero3"}}, "r", "device.count", "needs 2 GPUs or more"),
        (
            {**GPT2, "training": {"attention": "flash_attention_2", "padding": True}},
            "r",
            "training.attention",
            "padding",
        ),
        (GPT2, "lora_alpha", "solve_for", "must be one of r, sequence_length"),
        (GPT2, ["r"], "solve_for", "must be one of"),
        (GPT2, None, "solve_for", "is required, one of r, sequence_length"),
    ],
)
def test_a_limit_that_has_no_answer_is_refused_by_its_field(body, solve_for, loc, message):
    with pytest.raises(PlanError) as refused:
        solved(body, solve_for)
    assert refused.value.problems[0].loc == loc
    assert message in refused.value.problems[0].msg


def test_all_problems_of_a_request_are_reported_together():
    with pytest.raises(PlanError) as refused:
        parse_limit({"model": "gpt2", "method": {"name": "lora", "r": 0}})
    assert [problem.loc for problem in refused.value.problems] == ["solve_for", "method.r"]
    with pytest.raises(PlanError):
        parse_limit([])


def test_textbook_accounting_has_a_largest_rank_too():
    answer = solved({**LLAMA_13B, "accounting": "textbook"}, "r")
    assert answer.bound.by == "memory"
    assert list(faults(answer)) == []


def test_no_garbage_is_collected_while_a_limit_is_searched():
    """A search keeps many objects, which the collector would scan each time."""
    collections = []

    def count(phase, info):
        collections.append((phase, info["generation"]))

    gc.collect()
    gc.callbacks.append(count)
    try:
        solved(LLAMA_8B, "sequence_length", reserved="replay")
    finally:
        gc.callbacks.remove(count)
    assert {generation for _, generation in collections} <= {0, 1}
    assert len(collections) < 20
