"""Requests that are refused because an older release runs a model's layers differently."""

from __future__ import annotations

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.layers.activation import ACTIVATIONS
from calculator.stack import activations

SIZES = {"hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 16}
STARCODER2 = {**SIZES, "model_type": "starcoder2", "intermediate_size": 128, "vocab_size": 100}
GEMMA3 = {**SIZES, "model_type": "gemma3_text", "intermediate_size": 128, "vocab_size": 100}
EVERY_SECOND = ["sliding_attention", "full_attention"] * 3


def body(transformers: str, config: dict[str, object], **training: object) -> dict[str, object]:
    return {
        "model": {"config": config},
        "method": {"name": "full"},
        "training": {"sequence_length": 16, **training},
        "stack": {"transformers": transformers},
    }


def test_checkpointing_of_layers_that_a_release_does_not_checkpoint_is_refused() -> None:
    for transformers in ("4.48", "4.51"):
        with pytest.raises(PlanError) as refused:
            estimate(parse_request(body(transformers, STARCODER2, gradient_checkpointing=True)))
        (found,) = refused.value.problems
        assert found.loc == "training.gradient_checkpointing"
        assert f"transformers {transformers} checkpoints no layer of starcoder2: use false" in found.msg
    assert estimate(parse_request(body("4.52", STARCODER2, gradient_checkpointing=True))).memory.phases


def test_layer_types_that_a_release_does_not_read_are_refused() -> None:
    with pytest.raises(PlanError) as refused:
        estimate(parse_request(body("4.52", {**GEMMA3, "layer_types": EVERY_SECOND})))
    (found,) = refused.value.problems
    assert found.loc == "stack.transformers"
    assert "does not read layer_types: every layer but each 6th has a window there: use 5.24" in found.msg
    assert estimate(parse_request(body("4.53", {**GEMMA3, "layer_types": EVERY_SECOND}))).memory.phases
    assert estimate(parse_request(body("4.52", GEMMA3))).memory.phases


MIXTRAL = {**SIZES, "model_type": "mixtral", "intermediate_size": 128, "vocab_size": 100, "num_local_experts": 4}


def test_a_routers_loss_over_all_layers_is_refused() -> None:
    with pytest.raises(PlanError) as refused:
        estimate(parse_request(body("5.22", {**MIXTRAL, "output_router_logits": True})))
    (found,) = refused.value.problems
    assert found.loc == "model.config.output_router_logits"
    assert "set output_router_logits to false, or use stack.transformers 5.24" in found.msg
    assert estimate(parse_request(body("5.23", {**MIXTRAL, "output_router_logits": True}))).memory.phases
    assert estimate(parse_request(body("5.22", MIXTRAL))).memory.phases


def test_experts_before_the_first_known_release_are_refused_with_the_reason() -> None:
    for transformers, known in (("4.57", True), ("5.7", False)):
        with pytest.raises(PlanError) as refused:
            estimate(parse_request(body(transformers, MIXTRAL)))
        (found,) = refused.value.problems
        assert found.msg.endswith("; from 5.8 on it is: use 5.24")
        assert ("an expert is a module of its own" in found.msg) is known


def test_an_activation_function_that_a_release_does_not_have_is_refused() -> None:
    config = {**SIZES, "model_type": "llama", "intermediate_size": 128, "vocab_size": 100}
    for name, before, since in (
        ("gelu_python_tanh", "4.56.2", "4.57"),
        ("hardswish", "5.3", "5.4"),
        ("sqrtsoftplus", "5.7", "5.8"),
    ):
        with pytest.raises(PlanError) as refused:
            estimate(parse_request(body(before, {**config, "hidden_act": name})))
        (found,) = refused.value.problems
        assert (found.loc, found.input) == ("stack.transformers", before)
        assert found.msg == (
            f"transformers {before} does not have the model's activation function, {name}: use {since} or later"
        )
        assert estimate(parse_request(body(since, {**config, "hidden_act": name}))).memory.phases


def test_later_activation_functions_are_modeled() -> None:
    assert activations.FIRST.keys() <= ACTIVATIONS.keys()


def test_a_frozen_reference_of_an_older_release_on_several_gpus_is_refused() -> None:
    request = body("4.57", GEMMA3, trainer="trl-dpo")
    request |= {"stack": {"transformers": "4.57", "trl": "0.24"}, "device": {"count": 2, "sharding": "fsdp"}}
    with pytest.raises(PlanError, match=r"device\.count: DPOTrainer of TRL 0\.24 is modeled on one GPU only"):
        estimate(parse_request(request))


def test_a_trainer_that_is_none_of_trl_is_named_without_its_release() -> None:
    with pytest.raises(PlanError, match=r"what torchtune does with transformers 4\.57 is not known: use transformers"):
        estimate(parse_request(body("4.57", {**GEMMA3, "model_type": "llama"}, trainer="torchtune")))
