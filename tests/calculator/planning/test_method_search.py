"""The search brackets: what it finds fits, and the next larger micro-batch does not."""

from dataclasses import replace

import pytest

from calculator.estimation.request import ModelReference
from calculator.inputs.device import Device
from calculator.methods import LoRA
from calculator.planning.candidates import attention_names, candidates
from calculator.planning.evaluator import Candidate, Evaluator, micro_batches
from calculator.planning.method_search import larger_rank, search
from calculator.planning.needs import Needs


def evaluator(model="meta-llama/Llama-3.1-8B", gpu="rtx-4090", **needs):
    return Evaluator(ModelReference(id=model), Device(gpu=gpu), Needs(**needs), length_given=True, reserved="rule")


def test_micro_batches_make_up_the_effective_batch_exactly():
    assert micro_batches(16) == (1, 2, 4, 8, 16)
    assert micro_batches(12, cards=4) == (1, 3)
    assert micro_batches(7) == (1, 7)
    assert micro_batches(6, cards=4) == ()


@pytest.mark.parametrize("name", ["lora", "qlora", "adapter", "prompt"])
@pytest.mark.parametrize("batch", [16, 12, 7])
def test_the_found_micro_batch_fits_and_a_larger_one_does_not_or_leaves_little(name, batch):
    at = evaluator(effective_batch_size=batch)
    found = search(name, at).candidates
    assert found
    sizes = micro_batches(batch)
    for candidate in found:
        assert at.fits(candidate)
        sized = [replace(candidate, micro_batch_size=size) for size in sizes if size > candidate.micro_batch_size]
        assert all(not at.fits(larger) or at.is_close(larger) for larger in sized)
        if at.is_close(candidate):
            assert not any(at.fits(larger) for larger in sized)


def test_every_micro_batch_of_a_request_makes_up_the_effective_batch():
    at = evaluator(effective_batch_size=24)
    training = at.request(Candidate(method=LoRA(), micro_batch_size=3)).training
    assert training.micro_batch_size * training.gradient_accumulation_steps == 24


def test_a_method_that_peft_refuses_has_the_reasons_instead():
    at = search("prefix", evaluator(model="mosaicml/mpt-7b", sequence_length=1024))
    assert [problem.loc for problem in at.problems] == ["method.name"]


def test_a_prefix_is_tried_only_without_checkpointing():
    found = search("prefix", evaluator(gpu="a100-sxm4-80gb")).candidates
    assert [candidate.gradient_checkpointing for candidate in found] == [False]


def test_candidates_go_from_the_preferred_to_the_smallest():
    at = evaluator()
    for name in ("full", "lora", "qlora", "adapter"):
        needed = [at.answer(candidate) for candidate in candidates(name, at)]
        sizes = [answer.memory.required_bytes for answer in needed]
        assert sizes == sorted(sizes, reverse=True), name


def test_no_candidate_trains_a_larger_share_than_requested():
    at = evaluator(max_trainable_fraction=0.0005)
    for name in ("full", "lora", "qlora", "adapter", "prefix", "prompt"):
        assert all(at.trained_share(candidate.method) <= 0.0005 for candidate in candidates(name, at)), name
    assert candidates("full", at) == ()
    assert candidates("lora", at)[0].method.r < 16


def test_models_with_fused_experts_adapt_attention():
    at = evaluator(model="mistralai/Mixtral-8x7B-v0.1")
    assert {candidate.method.target_modules for candidate in candidates("lora", at)} == {
        ("q_proj", "k_proj", "v_proj", "o_proj")
    }


def test_the_names_of_attention_mean_no_other_module():
    assert attention_names(evaluator(model="openai-community/gpt2").model) == ("c_attn", "attn.c_proj")


def test_a_larger_rank_is_offered_only_with_a_margin():
    at = evaluator()
    (base,) = (candidate for candidate in search("qlora", at).candidates if candidate.gradient_checkpointing)
    larger = larger_rank(base, at)
    assert (larger.method.r, larger.method.lora_alpha) == (64, 128)
    assert not at.is_close(larger)


def test_each_estimate_is_made_once():
    at = evaluator()
    search("qlora", at)
    estimates = at.estimates
    search("qlora", at)
    assert at.estimates == estimates < 20
