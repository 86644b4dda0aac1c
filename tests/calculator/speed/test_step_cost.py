"""A step's relative cost follows from counted products, and agrees with what was published."""

import pytest

from calculator.devices import gpu
from calculator.estimation.estimate import estimate, model_of
from calculator.estimation.request import parse_request
from calculator.inference.matmul_counts import products
from calculator.speed.step_cost import USUAL_GPU, step_cost

CARD = gpu("rtx-4090")
ALL = {"target_modules": "all-linear", "r": 16}


def cost(method, model="meta-llama/Llama-2-7b-hf", card="rtx-4090", **training):
    request = parse_request({"model": model, "method": method, "training": training, "device": {"gpu": card}})
    return step_cost(model_of(request.model), request, estimate(request))


def test_the_products_of_a_model_are_its_linear_weights():
    """Llama-2-7B by hand: four square matrices and three of the MLP in each layer, then the head."""
    counted = products(model_of(parse_request({"model": "meta-llama/Llama-2-7b-hf", "method": {"name": "full"}}).model))
    assert counted.layers == 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    assert counted.head == 32000 * 4096
    assert counted.attention == 2 * 32 * 4096


@pytest.mark.parametrize(
    ("model", "width"),
    [
        ("Qwen/Qwen3.5-0.8B", 6 * 8 * 256),
        ("nvidia/NVIDIA-Nemotron-Nano-9B-v2", 4 * 40 * 128),
        ("tiiuae/Falcon-H1-0.5B-Base", 36 * 8 * 64),
        ("google/gemma-4-E2B", 28 * 8 * 256 + 7 * 8 * 512),
    ],
)
def test_only_layers_that_attend_have_products_of_attention(model, width):
    """By the config.json: one layer of four of Qwen 3.5, four layers of Nemotron's, all of Falcon-H1."""
    counted = products(model_of(parse_request({"model": model, "method": {"name": "full"}}).model))
    assert counted.attention == 2 * width


def test_a_token_runs_only_the_experts_that_it_is_routed_to():
    """Mixtral 8x7B is published with 46.7 billion parameters, 12.9 billion of them used by a token."""
    request = parse_request({"model": "mistralai/Mixtral-8x7B-v0.1", "method": {"name": "full"}})
    assert products(model_of(request.model)).weights == pytest.approx(12.9e9, rel=0.02)


def test_full_fine_tuning_takes_six_operations_a_weight_and_token_and_checkpointing_a_third_more():
    kept, recomputed = cost({"name": "full"}), cost({"name": "full"}, gradient_checkpointing=True)
    assert kept.operations == pytest.approx(6 * 6.6e9 * 2048, rel=0.1)
    assert recomputed.operations / kept.operations == pytest.approx(4 / 3, abs=0.02)


def test_lora_takes_slightly_more_than_two_thirds_of_the_operations_of_full_fine_tuning():
    """Schulman et al. 2025, LoRA Without Regret, says so of its own count."""
    share = cost({"name": "lora", **ALL}).operations / cost({"name": "full"}).operations
    assert 2 / 3 < share < 0.7


def test_over_a_frozen_base_checkpointing_costs_half_a_step():
    kept = cost({"name": "lora", **ALL})
    recomputed = cost({"name": "lora", **ALL}, gradient_checkpointing=True)
    assert recomputed.relative - kept.relative == pytest.approx(0.5, abs=0.02)


def test_dequantizing_is_done_for_every_micro_batch_and_pass():
    def dequantized(**training):
        step = cost({"name": "qlora", **ALL}, **training)
        return next(term for term in step.terms if term.name == "dequantized weights")

    once = dequantized()
    assert once.amount == round(2 * 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008) * 2.5)
    assert dequantized(gradient_checkpointing=True).amount * 2 == once.amount * 3
    assert dequantized(gradient_accumulation_steps=4).amount == 4 * once.amount
    assert dequantized(micro_batch_size=4).relative == pytest.approx(once.relative / 4)


def test_few_tokens_a_micro_batch_do_not_hide_the_reads_of_the_weights():
    few = cost({"name": "lora", **ALL}, sequence_length=64, gradient_accumulation_steps=16)
    many = cost({"name": "lora", **ALL}, sequence_length=64, micro_batch_size=16)
    assert few.operations == many.operations
    assert few.relative > 1.5 * many.relative
    assert "weights read for few tokens" in [term.name for term in few.terms]
    assert "weights read for few tokens" not in [term.name for term in many.terms]


def test_a_prompt_costs_its_tokens_and_a_prefix_only_what_is_attended():
    assert cost({"name": "prompt", "num_virtual_tokens": 512}).relative == pytest.approx(1 + 512 / 2048, rel=0.03)
    assert cost({"name": "prefix", "num_virtual_tokens": 512}).relative == pytest.approx(1, abs=0.03)


def test_the_parts_sum_to_the_cost_and_each_has_its_source():
    step = cost({"name": "qlora", **ALL}, gradient_checkpointing=True, sequence_length=64)
    assert sum(term.relative for term in step.terms) == pytest.approx(step.relative)
    assert len(step.terms) == 6
    assert all(term.source and term.formula and term.substituted for term in step.terms)


def test_a_gpu_without_published_speeds_is_weighed_as_another_which_is_stated():
    assert cost({"name": "lora"}, card="l20").card == cost({"name": "lora"}, card=USUAL_GPU).card


def test_a_prepared_4_bit_model_computes_attention_and_its_head_in_float32_unless_autocast_is_on():
    in_float32 = cost({"name": "qlora", **ALL})
    term = next(term for term in in_float32.terms if term.name == "attention and output head in float32")
    plain = cost({"name": "qlora", "prepare_model_for_kbit_training": False, **ALL})
    under_autocast = cost({"name": "qlora", **ALL}, autocast="bfloat16")
    assert plain.operations == under_autocast.operations == in_float32.operations
    assert plain.relative == pytest.approx(under_autocast.relative)
    at_half = term.relative * CARD.fp32_tflops / CARD.bf16_tflops
    assert in_float32.relative - plain.relative == pytest.approx(term.relative - at_half)
