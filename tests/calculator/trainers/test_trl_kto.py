"""TRL's KTOTrainer. tests/cases/trainers.jsonl has traced steps."""

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate, training_step
from calculator.estimation.request import parse_request
from calculator.resident.per_parameter import tensors
from calculator.training_step.unrolled import events

LORA = {"name": "lora", "r": 8, "target_modules": "all-linear"}
MODEL = "meta-llama/Llama-3.2-1B"


def request(method=LORA, **training):
    training = {"sequence_length": 512, "micro_batch_size": 2, "trainer": "trl-kto", **training}
    return parse_request({"model": MODEL, "method": method, "training": training})


def passes(**changes):
    rows = [row[0] for row in events(training_step(request(**changes)).resident.prepared).rows]
    return [name.rpartition("model.embed_tokens")[0] for name in rows if name.endswith("model.embed_tokens: output")]


def fetched(**changes):
    kept = tensors(training_step(request(**changes)).resident.optimizer_states)
    return {tensor.name for tensor in kept if tensor.component == "activations"}


def test_the_loss_kto_runs_a_second_batch_in_the_model_and_in_the_reference():
    assert passes() == ["KL: ", "", "KL, reference: ", "reference: "]
    assert passes(precompute_ref_log_probs=True) == ["KL: ", ""]


def test_the_loss_apo_zero_unpaired_needs_no_second_batch():
    assert passes(loss_type="apo_zero_unpaired") == ["", "reference: "]
    assert "KL_input_ids" in fetched()
    assert "KL_input_ids" not in fetched(loss_type="apo_zero_unpaired")


def test_precomputed_log_probabilities_are_in_the_batch():
    assert {"ref_logps", "ref_KL_logps"} <= fetched(precompute_ref_log_probs=True)
    unpaired = fetched(precompute_ref_log_probs=True, loss_type="apo_zero_unpaired")
    assert "ref_logps" in unpaired
    assert "ref_KL_logps" not in unpaired


@pytest.mark.parametrize(
    ("changes", "loc"),
    [
        ({"micro_batch_size": 1}, "training.micro_batch_size"),
        ({"loss_type": "sigmoid"}, "training.loss_type"),
        ({"method": {"name": "lora", "target_modules": ["lm_head"]}}, "method.target_modules"),
    ],
)
def test_a_refusal_names_its_field(changes, loc):
    with pytest.raises(PlanError) as refused:
        estimate(request(**changes))
    assert [problem.loc for problem in refused.value.problems] == [loc]


def test_one_row_is_enough_for_the_loss_apo_zero_unpaired():
    assert estimate(request(micro_batch_size=1, loss_type="apo_zero_unpaired")).memory


@pytest.mark.parametrize("method", ["prefix", "prompt"])
def test_virtual_tokens_are_replayed_with_every_layer(method):
    answer = estimate(request(method={"name": method}))
    assert "with its adapters off" in " ".join(answer.assumptions)
    assert answer.memory.peak_reserved_bytes >= answer.memory.peak_allocated_bytes
