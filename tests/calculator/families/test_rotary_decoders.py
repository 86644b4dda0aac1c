"""Rotary decoders compared with traces of small models (tests/cases/README.md), each branch to the byte."""

import json

import pytest

from calculator.estimation.estimate import resident_state, training_step
from calculator.estimation.request import parse_request
from calculator.families import forward_of
from calculator.layers.context import Context
from tests.paths import CASE_FILES

CASES = [json.loads(line) for line in (CASE_FILES / "rotary.jsonl").read_text().splitlines()]

SHAPE = {
    "vocab_size": 517,
    "hidden_size": 192,
    "intermediate_size": 320,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "pad_token_id": 0,
    "use_cache": False,
}


def parsed(config, training):
    return parse_request(
        {
            "model": {"config": {**SHAPE, **config}},
            "method": {"name": "full"},
            "training": {"sequence_length": 128, **training},
        }
    )


def phases(config, **training):
    return {peak.phase: peak.bytes for peak in training_step(parsed(config, training)).peaks()}


def kinds(config, **training):
    """The classes of the layers, as letters in the order in which they come."""
    prepared = resident_state(parsed(config, training)).prepared
    classes = Context(prepared, forward_of(prepared.model)).classes
    return "".join("abc"[[*dict.fromkeys(classes)].index(kind)] for kind in classes)


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_every_phase_is_the_traced_one_to_the_byte(case):
    request = parse_request(case["request"])
    step = training_step(request)
    assert {peak.phase: peak.bytes for peak in step.peaks()} == case["expected"]["phases"]


def test_a_window_as_long_as_the_sequence_needs_the_memory_efficient_kernel():
    mistral = {"model_type": "mistral"}
    without = phases({**mistral, "sliding_window": None})
    assert phases({**mistral, "sliding_window": 129}) == without
    assert phases({**mistral, "sliding_window": 128})["forward"] > without["forward"]


def test_flash_attention_2_makes_no_mask_for_a_window():
    mistral = {"model_type": "mistral"}
    without = phases({**mistral, "sliding_window": None}, attention="flash_attention_2")
    assert phases({**mistral, "sliding_window": 64}, attention="flash_attention_2") == without


def test_sliding_layers_are_a_separate_class_if_no_others_need_a_mask():
    """The first layer of full attention is one too where each type has tables or a mask, which it frees."""
    gemma3, first_differs = {"model_type": "gemma3_text", "sliding_window": 64}, "aaaaabaaaaaa"
    assert kinds(gemma3) == "aaaaabaaaaab"
    assert kinds({**gemma3, "sliding_window": 4096}) == first_differs
    assert kinds(gemma3, padding=True) == first_differs
    assert kinds(gemma3, attention="eager") == first_differs
    assert kinds(gemma3, attention="flash_attention_2") == first_differs


def test_layers_without_rotary_embeddings_are_a_separate_class():
    assert kinds({"model_type": "smollm3"}) == "aaabaaabaaab"
    assert kinds({"model_type": "cohere2", "sliding_window": 4096}) == "aaabaaabaaab"


def test_soft_capping_runs_eager_if_sdpa_is_requested():
    gemma2 = {"model_type": "gemma2", "sliding_window": 64}
    assert phases(gemma2, attention="sdpa") == phases(gemma2, attention="eager")


def test_a_cap_on_the_scores_saves_one_more_tensor_of_their_size():
    gemma2 = {"model_type": "gemma2", "sliding_window": 64}
    uncapped = phases({**gemma2, "attn_logit_softcapping": None})
    scores = 6 * 128 * 128 * 2
    assert phases(gemma2)["forward"] - uncapped["forward"] == 12 * scores
