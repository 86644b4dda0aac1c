"""Liger's kernels in a step of a trainer. tests/cases/recipes.jsonl has traced steps."""

from itertools import accumulate

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate, resident_state, training_step
from calculator.estimation.request import parse_request
from calculator.families import FAMILIES_WITH_FORWARD
from calculator.layers.liger.loss import chunk_size
from calculator.trainers.liger import NOT_MODELED, PATCHES
from calculator.training_step.unrolled import events, every_event

LORA = {"name": "lora", "r": 8, "target_modules": "all-linear"}


def request(method=LORA, model="meta-llama/Llama-3.2-1B", **training):
    training = {"sequence_length": 512, "trainer": "transformers", "use_liger_kernel": True, **training}
    return parse_request({"model": model, "method": method, "training": training})


@pytest.mark.parametrize(
    ("tokens", "vocab_size", "hidden_size", "expected"),
    [(16_384, 32_000, 4_096, 2_048), (4_096, 128_256, 4_096, 128), (100, 1_000, 4_096, 100), (3_000, 50_257, 768, 64)],
)
def test_a_chunk_is_a_power_of_two_that_bounds_the_logits(tokens, vocab_size, hidden_size, expected):
    assert chunk_size(tokens, vocab_size, hidden_size) == expected


def test_no_row_has_the_logits_of_all_tokens():
    rows = training_step(request()).run.rows
    assert max(row[4] for row in rows if 128_256 in row[1]) < 2 * 512 * 128_256


def test_the_gradients_of_a_trained_head_are_made_in_the_forward_pass():
    def in_forward(method):
        run = training_step(request(method)).run
        events = run.tape.events[: run.tape.position("backward")]
        return [run.rows[event][1] for event in events if event >= 0]

    assert (128_256, 2048) in in_forward({"name": "full"})
    assert (128_256, 2048) not in in_forward(LORA)


def test_a_layer_that_runs_inside_a_function_is_patched():
    rows = training_step(request(model="google/gemma-2-2b")).run.rows
    assert max(row[4] for row in rows if 256_000 in row[1]) < 2 * 512 * 256_000


def test_a_family_is_patched_or_refused_but_not_both():
    assert set(PATCHES) <= set(FAMILIES_WITH_FORWARD)
    assert not set(PATCHES) & NOT_MODELED
    assert set(FAMILIES_WITH_FORWARD) >= NOT_MODELED


def test_a_family_that_liger_does_not_patch_trains_as_without_it():
    with_it, without = (estimate(request(model="openai-community/gpt2", use_liger_kernel=on)) for on in (True, False))
    assert with_it.memory.phases == without.memory.phases
    assert "Liger patches no gpt2 model" in " ".join(with_it.assumptions)


@pytest.mark.parametrize("model", ["mistralai/Mixtral-8x7B-v0.1", "Qwen/Qwen3-30B-A3B"])
def test_a_family_whose_patch_is_not_modeled_is_refused(model):
    with pytest.raises(PlanError, match="not modeled yet"):
        estimate(request(model=model, method={"name": "full"}))


def test_granite_keeps_its_logits_and_writes_their_gradient_over_them():
    rows = training_step(request({"name": "full"}, "ibm-granite/granite-3.0-2b-base")).run.rows
    logits = [row[0] for row in rows if len(row[1]) == 3 and row[1][-1] == 49_155]
    assert [name for name in logits if name.endswith("logits in float32")]
    assert not [name for name in logits if "log-probabilities" in name]


def test_cross_entropy_of_granites_logits_is_refused_if_it_is_not_modeled():
    with pytest.raises(PlanError, match="Liger's cross-entropy of granite's logits"):
        estimate(request(LORA, "ibm-granite/granite-3.0-2b-base", trainer="trl-orpo"))


def test_an_adapter_on_the_head_is_refused():
    with pytest.raises(PlanError, match="gets no gradient"):
        estimate(request({"name": "lora", "target_modules": ["lm_head"]}))


@pytest.mark.parametrize("model", ["meta-llama/Llama-3.2-1B", "Qwen/Qwen3-0.6B"])
def test_bottleneck_adapters_are_refused_with_liger(model):
    with pytest.raises(PlanError, match="finds the adapter's module in its place") as refused:
        estimate(request({"name": "adapter"}, model))
    assert [(problem.loc, problem.input) for problem in refused.value.problems] == [("training.use_liger_kernel", True)]
    assert estimate(request({"name": "adapter"}, "openai-community/gpt2"))


def test_the_reference_step_refuses_liger():
    with pytest.raises(PlanError, match=r"set training\.trainer"):
        estimate(request(trainer=None))


@pytest.mark.parametrize("steps", [1, 3])
def test_unrolled_layers_have_the_events_of_interpreted_ones(steps):
    config = {
        "model_type": "llama",
        "hidden_size": 128,
        "intermediate_size": 320,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "vocab_size": 2048,
    }
    wanted = request(model={"config": config}, gradient_accumulation_steps=steps, micro_batch_size=2)
    prepared = resident_state(wanted).prepared

    def alive(unrolled):
        change = [unrolled.rows[max(e, ~e)][4] * (1 if e >= 0 else -1) for e in (*unrolled.forward, *unrolled.backward)]
        return [*accumulate(change)]

    assert alive(events(prepared)) == alive(every_event(prepared))


def test_a_cast_that_autocast_cached_in_one_chunk_is_there_in_the_next():
    config = {
        "model_type": "llama",
        "hidden_size": 256,
        "intermediate_size": 513,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 517,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
    }
    training = {"sequence_length": 200, "dtype": "float32", "autocast": "bfloat16", "optimizer": "rmsprop"}
    training |= {"gradient_checkpointing": True, "gradient_accumulation_steps": 2, "padding": True}
    memory = estimate(request({"name": "full"}, {"config": config}, **training)).memory
    assert [phase.peak_bytes for phase in memory.phases] == [22_087_680, 21_722_112, 23_164_928]


def test_a_reference_has_the_rotation_of_a_layer_that_runs_inside_a_function():
    body = {"model": "google/gemma-2-2b", "method": {"name": "full"}, "reserved": "rule"}
    training = {"trainer": "trl-grpo", "use_vllm": True, "beta": 0.04, "use_liger_kernel": True, "micro_batch_size": 8}
    assert estimate(parse_request({**body, "training": {**training, "sequence_length": 256}})).memory.phases
