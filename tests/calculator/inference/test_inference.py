"""Served models: the lesson's problems next to exact answers, and properties of every answer."""

import random

import pytest

from calculator.common.errors import PlanError
from calculator.inference.inference import inference
from calculator.inference.request import parse_inference
from calculator.lesson.exercises import PROBLEMS
from calculator.methods import METHODS

GB = 10**9
LLAMA_8B = "meta-llama/Llama-3.1-8B"
LLAMA_70B = "meta-llama/Llama-3.1-70B"
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


def answer(method, model=LLAMA_8B, gpu=None, **serving):
    device = {"gpu": gpu} if gpu else {}
    body = {"model": model, "method": method, "serving": serving, "device": device, "reserved": "rule"}
    return inference(parse_inference(body))


def part(answered, name):
    return next((component for component in answered.memory.components if component.name == name), None)


def cost(answered, name):
    return next(cost for cost in answered.costs if cost.name == name)


def refused(method, model=LLAMA_8B, **serving):
    with pytest.raises(PlanError) as caught:
        answer(method, model, **serving)
    return {problem.loc: problem.msg for problem in caught.value.problems}


# ----------------------------------------------------------------------------------------------------------------------
# The lesson


def test_problem_3_a_70b_in_nf4_and_one_dequantized_matrix_exceed_the_lessons_37_gb():
    """The lesson: 35 GB and one dequantized layer, 36 to 37 GB. Exactly: constants and embeddings come on top."""
    lesson = next(figure for figure in PROBLEMS if figure.claim.startswith("inference"))
    assert (lesson.low, lesson.high) == (36, 37)
    answered = answer({"name": "qlora", "r": 64, "target_modules": ATTENTION}, LLAMA_70B, gpu="a100-sxm4-80gb")
    assert answered.fit.verdict == "fits"
    assert part(answered, "base_weights").bytes == 38_430_852_096
    assert part(answered, "quantization_constants").bytes == 1_087_407_104
    (dense, *_) = part(answered, "workspace").rows
    assert dense.name.endswith("mlp.up_proj: weight, dequantized")
    assert dense.bytes == 2 * 8192 * 28672
    resident = part(answered, "base_weights").bytes + part(answered, "quantization_constants").bytes + dense.bytes
    assert resident / GB == pytest.approx(39.99, abs=0.01)
    assert answered.memory.peak_allocated_bytes / GB == pytest.approx(42.11, abs=0.01)


def test_problem_4_twenty_switched_tasks_share_one_base_as_adapters_and_as_lora():
    """The lesson: adapters where 20 tasks are switched rapidly. Unmerged LoRA serves them too; merged models don't."""
    adapters = answer({"name": "adapter", "bottleneck_size": 64}, tasks=20, gpu="rtx-a6000")
    lora = answer({"name": "lora", "r": 16, "target_modules": "all-linear"}, tasks=20, gpu="rtx-a6000")
    merged = answer({"name": "lora", "r": 16, "target_modules": "all-linear"}, tasks=20, merged=True, gpu="rtx-a6000")
    assert adapters.fit.verdict == lora.fit.verdict == "fits"
    assert merged.fit.verdict == "does_not_fit"
    assert cost(adapters, "resident_bytes").added == 20 * cost(answer({"name": "adapter"}), "resident_bytes").added
    assert part(adapters, "base_weights").bytes == part(lora, "base_weights").bytes == 16_060_523_520
    assert part(merged, "base_weights").bytes == 20 * 16_060_523_520
    assert cost(merged, "operations_per_token").added == 0 < cost(lora, "operations_per_token").added


def test_problem_4_adapters_cannot_be_merged_and_lora_can():
    assert refused({"name": "adapter"}, merged=True) == {
        "serving.merged": "Adapters can't be merged into the weights: use false"
    }
    assert answer({"name": "lora"}, merged=True).merge is not None


# ----------------------------------------------------------------------------------------------------------------------
# Properties of every answer


#: The methods that are served without merging; BitFit trains biases, which Llama does not have.
UNMERGED = [name for name, method in METHODS.items() if not method.facts.refuses_unmerged and name != "bitfit"]


@pytest.mark.parametrize("name", UNMERGED)
def test_components_sum_to_the_peak_and_their_rows_to_them(name):
    memory = answer({"name": name}, batch_size=2, context_length=512).memory
    assert sum(component.bytes for component in memory.components) == memory.peak_allocated_bytes
    assert max(pass_.peak_bytes for pass_ in memory.passes) == memory.peak_allocated_bytes
    for component in memory.components:
        assert sum(row.bytes for row in component.rows) == component.bytes
    assert memory.required_bytes > memory.peak_reserved_bytes >= memory.peak_allocated_bytes


@pytest.mark.parametrize("number", range(10))
def test_more_of_anything_never_needs_less(number):
    chance = random.Random(number)
    method = {"name": chance.choice(UNMERGED)}
    serving = {
        "batch_size": chance.choice([1, 2, 5]),
        "context_length": chance.choice([64, 500, 2048]),
        "max_new_tokens": chance.choice([1, 2, 3, 200]),
        "tasks": chance.choice([1, 7]),
        "attention": chance.choice(["sdpa", "eager"]),
        "padding": chance.random() < 0.3,
    }
    least = answer(method, **serving).memory.peak_allocated_bytes
    for name in ("batch_size", "context_length", "max_new_tokens", "tasks"):
        more = {**serving, name: serving[name] + chance.choice([1, 8, 100])}
        assert answer(method, **more).memory.peak_allocated_bytes >= least, name


def test_the_cache_grows_with_batch_and_context_by_the_groups_of_heads():
    small, large = (cost(answer({"name": "full"}, batch_size=b), "kv_cache_bytes").base for b in (1, 4))
    assert small == (2048 + 255) * 2 * 32 * 8 * 128 * 2
    assert large == 4 * small


def test_a_window_bounds_what_a_layer_keeps_once_the_prompt_is_answered():
    gemma = answer({"name": "full"}, "google/gemma-3-1b-pt", context_length=16_384)
    keeps = {pass_.name: pass_.peak_bytes for pass_ in gemma.memory.passes}
    assert keeps["last_decode"] < keeps["first_decode"] < keeps["prefill"]
    assert any("window" in sentence for sentence in gemma.assumptions)


def test_virtual_tokens_of_a_prefix_take_cache_and_no_products():
    answered = answer({"name": "prefix", "num_virtual_tokens": 20}, batch_size=4)
    assert cost(answered, "kv_cache_bytes").added == 4 * 20 * 2 * 32 * 8 * 128 * 2
    assert cost(answered, "operations_per_token").added == 4 * 20 * 32 * 32 * 128


def test_an_unmerged_adapter_is_read_by_every_token_and_multiplies_it():
    answered = answer({"name": "lora", "r": 16, "target_modules": "all-linear"})
    assert answered.parameters.added_per_task == 41_943_040
    assert cost(answered, "operations_per_token").added == 2 * 41_943_040
    assert cost(answered, "bytes_read_per_token").added == 4 * 41_943_040


def test_dora_works_its_norms_out_in_every_pass():
    """An identity matrix times A and B, the sum with W, and the norm: for q_proj and v_proj of 32 layers."""
    operations = [2 * 4096 * 8 * (4096 + outer) + 4 * 4096 * outer for outer in (4096, 1024)]
    plain, dora = (
        cost(answer({"name": "lora", "use_dora": use}, batch_size=4), "operations_per_token") for use in (False, True)
    )
    assert dora.added - plain.added == 32 * sum(operations) // 4
    assert "DoRA's norms" in dora.formula


def test_a_full_model_costs_nothing_over_its_base():
    assert [cost.added for cost in answer({"name": "full"}).costs] == [0, 0, 0, 0]


# ----------------------------------------------------------------------------------------------------------------------
# Merging


def test_merging_into_nf4_dequantizes_adds_quantizes_again_and_states_what_is_lost():
    answered = answer({"name": "qlora", "r": 16, "target_modules": "all-linear"}, merged=True)
    names = [row.name for row in answered.merge.rows]
    assert names[:5] == [
        "weight, dequantized",
        "update",
        "weight + update",
        "the same, back from the CPU",
        "weight, quantized again",
    ]
    assert "rounding errors" in answered.merge.loss
    assert answered.merge.loss in answered.warnings
    assert answered.merge.peak_bytes > part(answered, "base_weights").bytes + 14 * 4096 * 14336
    assert part(answered, "adapter_weights") is None


def test_merging_into_dense_weights_rounds_no_further():
    answered = answer({"name": "qlora", "r": 16}, merged=True, storage="dtype")
    assert [row.name for row in answered.merge.rows] == ["B·A", "update"]
    assert "4-bit" not in answered.merge.loss


def test_a_merge_that_the_gpu_cannot_hold_is_warned_of():
    answered = answer({"name": "lora", "target_modules": "all-linear"}, merged=True, gpu="rtx-4060")
    assert any("merge in CPU memory" in sentence for sentence in answered.warnings)


# ----------------------------------------------------------------------------------------------------------------------
# Refusals


@pytest.mark.parametrize(
    ("method", "serving", "loc"),
    [
        ({"name": "full"}, {"merged": True}, "serving.merged"),
        ({"name": "prompt"}, {"merged": True}, "serving.merged"),
        ({"name": "lora", "bias": "all"}, {"tasks": 2}, "serving.tasks"),
        ({"name": "full"}, {"dtype": "float32", "attention": "flash_attention_2"}, "serving.attention"),
        ({"name": "lora", "target_modules": ["nothing"]}, {}, "method.target_modules"),
        ({"name": "full"}, {"batch_size": 0}, "serving.batch_size"),
        ({"name": "full"}, {"sequence_length": 5}, "serving.sequence_length"),
    ],
)
def test_a_model_that_cannot_be_served_is_refused_at_its_field(method, serving, loc):
    assert list(refused(method, **serving)) == [loc]


def test_the_usual_context_is_cut_to_the_models_positions_which_is_stated():
    answered = answer({"name": "prefix"}, "openai-community/gpt2")
    assert answered.serving.context_length == 1024 - 20 - 255
    assert "No context_length was given: 749 tokens are assumed." in answered.assumptions


def test_the_cost_of_generates_own_position_ids_is_stated():
    answered = answer({"name": "full"}, batch_size=3, context_length=100)
    assert any(f"{2 * 2 * 100 * 128 * 2:,} bytes more" in sentence for sentence in answered.assumptions)
    alone = answer({"name": "full"}, batch_size=1, context_length=100)
    assert not any("numbers each sequence" in sentence for sentence in alone.assumptions)


def test_a_model_of_another_task_is_refused():
    request = parse_inference({"model": "openai/whisper-tiny", "method": {"name": "lora"}})
    with pytest.raises(PlanError, match=r"model: inference is modeled for language models \(task causal_lm\)"):
        inference(request)


def test_a_router_loss_with_padding_is_refused():
    mixtral = {
        "model_type": "mixtral",
        "hidden_size": 192,
        "intermediate_size": 320,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 6,
        "num_local_experts": 4,
        "vocab_size": 517,
        "output_router_logits": True,
    }
    assert list(refused({"name": "full"}, {"config": mixtral}, padding=True)) == ["serving.padding"]
    assert answer({"name": "full"}, {"config": mixtral}).memory


@pytest.mark.parametrize(
    ("context", "new", "loc"), [(2000, 10, "serving.context_length"), (1000, 200, "serving.max_new_tokens")]
)
def test_learned_positions_end_prompt_or_answer(context, new, loc):
    problems = refused({"name": "full"}, "openai-community/gpt2", context_length=context, max_new_tokens=new)
    assert list(problems) == [loc]
    assert "1,024" in problems[loc]


def test_a_merge_that_is_not_modeled_is_named_by_no_other_method():
    (warning,) = answer({"name": "osf"}, "meta-llama/Llama-3.2-1B", merged=True).warnings
    assert warning == "The memory for merging with these settings is not modeled; that of the merged model is."
