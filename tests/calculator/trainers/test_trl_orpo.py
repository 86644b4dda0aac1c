"""TRL's ORPOTrainer. tests/cases/trainers.jsonl has traced steps."""

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate, training_step
from calculator.estimation.request import parse_request
from calculator.resident.per_parameter import tensors

LORA = {"name": "lora", "r": 8, "target_modules": "all-linear"}
MODEL = "meta-llama/Llama-3.2-1B"


def request(method=LORA, model=MODEL, **training):
    training = {"sequence_length": 512, "micro_batch_size": 2, "trainer": "trl-orpo", **training}
    return parse_request({"model": model, "method": method, "training": training})


def rows(**changes):
    return training_step(request(**changes)).run.rows


def test_all_logits_of_both_sequences_are_computed():
    assert {row[1] for row in rows() if row[0] == "lm_head: output"} == {(4, 512, 128_256)}


def test_only_logits_of_the_chosen_sequences_are_copied_unless_there_is_one():
    copied = [row[1] for row in rows() if row[0].endswith("logits of the chosen, shifted")]
    assert copied == [(2, 511, 128_256)]
    assert not [row for row in rows(micro_batch_size=1) if row[0].endswith("logits of the chosen, shifted")]


def test_the_prompt_has_the_tokens_without_a_label():
    kept = tensors(training_step(request(completion_tokens=400)).resident.optimizer_states)
    shapes = {tensor.name: tensor.shape for tensor in kept if tensor.component == "activations" and tensor.shape}
    assert shapes["chosen_input_ids"] == (2, 512)
    assert shapes["prompt_input_ids"] == (2, 412)


@pytest.mark.parametrize(
    ("changes", "loc"),
    [
        ({"method": {"name": "lora", "load_in_8bit": True}}, "method.name"),
        ({"loss_type": "sigmoid"}, "training.loss_type"),
        ({"precompute_ref_log_probs": True}, "training.precompute_ref_log_probs"),
        ({"method": {"name": "prompt"}}, "method.name"),
    ],
)
def test_a_refusal_names_its_field(changes, loc):
    with pytest.raises(PlanError) as refused:
        estimate(request(**changes))
    assert [problem.loc for problem in refused.value.problems] == [loc]


def test_an_adapter_on_the_head_is_accepted_with_liger_too():
    head = {"name": "lora", "target_modules": ["lm_head"]}
    assert estimate(request(method=head, use_liger_kernel=True)).memory
