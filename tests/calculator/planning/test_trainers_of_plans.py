"""A plan for a trainer: every candidate is a run of it, and what it refuses is ruled out with its reason."""

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.request import ModelReference
from calculator.inputs.device import Device
from calculator.inputs.training import Training
from calculator.methods import Adapter, LoRA
from calculator.planning.evaluator import Candidate, Evaluator
from calculator.planning.needs import Needs
from calculator.planning.plan import plan
from calculator.planning.request import parse_plan

BODY = {"model": "meta-llama/Llama-3.2-1B", "device": {"gpu": "rtx-4090"}, "reserved": "rule"}


def evaluator(effective_batch_size=16, **training):
    needs = Needs(effective_batch_size=effective_batch_size, sequence_length=256)
    reference, device = ModelReference(id=BODY["model"]), Device(gpu="rtx-4090")
    return Evaluator(reference, device, needs, length_given=True, reserved="rule", training=Training(**training))


def test_every_configuration_trains_with_the_trainer_and_what_it_refuses_is_ruled_out():
    training = {"trainer": "trl-grpo", "autocast": "bfloat16", "max_completion_length": 128}
    (part,) = plan(parse_plan({**BODY, "needs": {"sequence_length": 256}, "training": training})).plans
    requests = [configuration.request.training for configuration in part.configurations]
    assert requests
    assert {(request.trainer, request.autocast, request.max_completion_length) for request in requests} == {
        ("trl-grpo", "bfloat16", 128)
    }
    out = {exclusion.label: exclusion.sentence for exclusion in part.ruled_out}
    assert "generates otherwise than it trains with virtual tokens" in out["Prefix tuning"]


def test_a_trainer_that_needs_two_rows_gets_the_smallest_micro_batch_that_divides_the_batch():
    candidate = Candidate(method=LoRA())
    assert evaluator(trainer="trl-kto").request(candidate).training.micro_batch_size == 2
    odd = evaluator(9, trainer="trl-kto").request(candidate).training
    assert (odd.micro_batch_size, odd.gradient_accumulation_steps) == (3, 3)
    unpaired = evaluator(trainer="trl-kto", loss_type="apo_zero_unpaired").request(candidate).training
    assert unpaired.micro_batch_size == 1


def test_the_base_of_an_adapter_is_counted_without_the_model_that_the_trainer_compares_it_with():
    candidate = Candidate(method=Adapter(), micro_batch_size=2)
    plain, compared = (evaluator(trainer=name).answer(candidate) for name in ("transformers", "trl-kto"))
    assert compared.base_bytes == plain.base_bytes


@pytest.mark.parametrize(
    ("training", "loc", "says"),
    [
        ({"sequence_length": 5}, "training.sequence_length", "needs.sequence_length"),
        ({"micro_batch_size": 2}, "training.micro_batch_size", "needs.effective_batch_size"),
        ({"gradient_checkpointing": True}, "training.gradient_checkpointing", "leave it out"),
        ({"trainer": "nobody"}, "training.trainer", "trl-grpo"),
        ({"beta": 0.1}, "training.beta", "set training.trainer"),
        ({"trainer": "trl-sft", "loss_type": "ipo"}, "training.loss_type", "not a modeled loss of SFTTrainer"),
        ({"unknown": 1}, "training.unknown", "unknown field"),
        ([], "training", "must be an object"),
    ],
)
def test_a_wrong_setting_of_the_trainer_is_refused_at_its_place(training, loc, says):
    with pytest.raises(PlanError) as refused:
        plan(parse_plan({**BODY, "training": training}))
    (problem,) = refused.value.problems
    assert problem.loc == loc
    assert says in problem.msg


def test_a_batch_that_the_trainer_refuses_is_reported_at_the_need_that_decides_it():
    body = {**BODY, "needs": {"effective_batch_size": 1}, "training": {"trainer": "trl-kto"}}
    with pytest.raises(PlanError) as refused:
        plan(parse_plan(body))
    placed = {problem.loc: problem.msg for problem in refused.value.problems}
    assert placed["needs.effective_batch_size"].startswith("micro_batch_size is 1: ")
