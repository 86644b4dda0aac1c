"""LN Tuning: what is copied, what is refused, and what a token and a merge cost."""

import pytest

from calculator.catalogue import models
from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate, model_of, resident_state
from calculator.estimation.request import ModelReference, parse_request
from calculator.inference.inference import inference
from calculator.inference.request import parse_inference
from calculator.inputs.training import Training
from calculator.methods import LNTuning

LLAMA = "meta-llama/Llama-3.1-8B"
#: A model of each family.
FAMILIES = {entry.model_type: entry.id for entry in reversed(models())}
NORMS = 32 * 2 * 4096 + 4096


def problems(model=LLAMA, **settings):
    with pytest.raises(PlanError) as caught:
        LNTuning(**settings).check(model_of(ModelReference(id=model)), Training())
    return {problem.loc: problem.msg for problem in caught.value.problems}


def request(training=None, **method):
    return parse_request({"model": LLAMA, "method": {"name": "ln_tuning", **method}, "training": training or {}})


def served(method=None, **serving):
    return inference(
        parse_inference({"model": LLAMA, "method": {"name": "ln_tuning", **(method or {})}, "serving": serving})
    )


def test_every_norm_is_trained_and_its_original_stays():
    counts = estimate(request()).parameters
    assert (counts.added, counts.trainable) == (NORMS, NORMS)
    tensors = {tensor.name: tensor for tensor in resident_state(request()).tensors}
    assert tensors["model.norm.ln_tuning_layers.weight"].trained
    assert not tensors["model.norm.weight"].trained


@pytest.mark.parametrize("adapter_dtype", ["float32", "model"])
def test_copies_have_the_dtype_of_the_base(adapter_dtype):
    tensors = resident_state(request({"adapter_dtype": adapter_dtype})).tensors
    assert {tensor.dtype for tensor in tensors if tensor.trained} == {"bfloat16"}
    ignored = any(
        "ignore adapter_dtype" in line for line in estimate(request({"adapter_dtype": adapter_dtype})).warnings
    )
    assert ignored == (adapter_dtype == "float32")


def test_a_family_without_a_default_is_refused_with_the_names_of_its_norms():
    message = problems(FAMILIES["phi3"])["method.target_modules"]
    assert message == "PEFT has no default for phi3: name norms (input_layernorm, post_attention_layernorm, norm)"


def test_a_norm_that_the_first_layer_lacks_is_refused():
    message = problems("answerdotai/ModernBERT-base", target_modules=("attn_norm",))["method.target_modules"]
    assert "model.layers.*.attn_norm of modernbert has no weight in every layer" in message
    LNTuning(target_modules=("mlp_norm",)).check(model_of(ModelReference(id="answerdotai/ModernBERT-base")), Training())


def test_targets_that_hold_other_modules_and_single_layers_are_refused():
    assert "mlp holds other modules" in problems(target_modules=("mlp", "norm"))["method.target_modules"]
    assert "picks one layer" in problems(target_modules=("layers.3.input_layernorm",))["method.target_modules"]


@pytest.mark.parametrize("training", [{"trainer": "trl-sft"}, {"trainer": "transformers", "use_liger_kernel": True}])
def test_trainers_that_are_not_modeled_with_copies_are_refused(training):
    with pytest.raises(PlanError, match="not modeled"):
        estimate(request(training))


def test_a_saved_module_may_not_be_the_end_of_a_targets_name():
    assert "input_layernorm" in problems(modules_to_save=("norm",))["method.modules_to_save"]


def test_copies_run_in_place_of_their_originals_so_a_token_costs_no_more():
    costs = {cost.name: cost.added for cost in served().costs}
    assert costs.pop("resident_bytes") == 2 * NORMS
    assert set(costs.values()) == {0}


def test_merging_swaps_the_copies_and_allocates_nothing():
    unmerged, merged = served(), served(merged=True)
    assert merged.merge.rows == ()
    assert merged.memory.peak_allocated_bytes == unmerged.memory.peak_allocated_bytes - 2 * NORMS


def test_a_base_in_4_bits_is_refused_only_if_a_copy_would_be_in_4_bits():
    assert served(storage="nf4").memory.peak_allocated_bytes < served().memory.peak_allocated_bytes
    for method in ({"target_modules": ["q_proj"]}, {"modules_to_save": ["q_proj"]}):
        with pytest.raises(PlanError, match="4 bits"):
            served(method, storage="nf4")


@pytest.mark.parametrize(
    ("name", "refused"), [("v_norm", True), ("norm", True), ("model.norm", False), ("k_norm", False)]
)
def test_names_of_norms_without_weights_are_refused(name, refused):
    """Gemma 4 with experts: `norm` is also the name of its routers' norms, which have no weight."""
    method = {"name": "ln_tuning", "target_modules": [name, "q_norm"]}
    body = {"model": "google/gemma-4-26B-A4B", "method": method, "reserved": "rule"}
    if refused:
        with pytest.raises(PlanError, match="has no weight"):
            estimate(parse_request(body))
    else:
        assert estimate(parse_request(body)).parameters.trainable
