"""Plans by replay: near a GPU's limit replays decide, and what is proposed has the figures of its own replay."""

from dataclasses import replace

import pytest

from calculator.devices import Verdict
from calculator.estimation.estimate import estimate
from calculator.estimation.request import ModelReference
from calculator.inputs.device import Device
from calculator.methods import LoRA
from calculator.planning import evaluator as evaluating
from calculator.planning.evaluator import Candidate, Evaluator
from calculator.planning.needs import Needs
from calculator.planning.plan import plan
from calculator.planning.request import parse_plan

SMALL = {"model": "meta-llama/Llama-3.2-1B", "device": {"gpu": "rtx-3060"}}
SHORT = {"model": "meta-llama/Llama-3.2-3B", "device": {"memory_bytes": 9 << 30}}
NOTHING = {"model": "meta-llama/Llama-3.2-3B", "device": {"memory_bytes": 3 << 30}}


def planned(body, **changes):
    (part,) = plan(parse_plan({**body, **changes})).plans
    return part


@pytest.fixture(scope="module")
def plans():
    return [planned(body) for body in (SMALL, SHORT)]


def test_every_proposal_is_the_replayed_estimate_of_its_request_and_fits(plans):
    for part in plans:
        assert part.configurations
        for configuration in part.configurations:
            assert configuration.request.reserved == configuration.estimate.reserved == "replay"
            assert configuration.estimate == estimate(configuration.request)
            assert configuration.estimate.fit.verdict is Verdict.FITS


def test_a_proposed_configuration_has_a_margin_to_the_smallest_memory(plans):
    fit = plans[0].configurations[0].estimate.fit
    assert 0 <= fit.headroom_bytes <= fit.margin_bytes == fit.usable_bytes - fit.minimum_bytes


def test_no_larger_micro_batch_fits_with_a_margin(plans):
    for part in plans:
        for configuration in part.configurations:
            training = configuration.request.training
            if training.gradient_accumulation_steps == 1:
                continue
            twice = replace(
                training,
                micro_batch_size=2 * training.micro_batch_size,
                gradient_accumulation_steps=training.gradient_accumulation_steps // 2,
            )
            fit = estimate(replace(configuration.request, training=twice)).fit
            assert fit.verdict is not Verdict.FITS or fit.headroom_bytes < evaluating.MARGIN * fit.usable_bytes


def test_a_run_that_fits_by_the_rule_fits_by_replay_too():
    ruled, replayed = planned(SMALL, reserved="rule"), planned(SMALL)
    assert {configuration.estimate.reserved for configuration in ruled.configurations} == {"rule"}
    methods = [
        {configuration.request.method.name for configuration in part.configurations} for part in (ruled, replayed)
    ]
    assert methods[0] <= methods[1]


def test_by_the_rule_nothing_is_replayed(monkeypatch):
    requested = []
    monkeypatch.setattr(
        evaluating, "estimate", lambda request, **_: requested.append(request.reserved) or estimate(request)
    )
    planned(SMALL, reserved="rule")
    assert set(requested) == {"rule"}


def test_only_candidates_near_the_limit_and_proposals_are_replayed(monkeypatch):
    requested = []
    monkeypatch.setattr(
        evaluating, "estimate", lambda request, **_: requested.append(request.reserved) or estimate(request)
    )
    planned(SMALL)
    assert 0 < requested.count("replay") < requested.count("rule")


def test_a_candidate_near_the_limit_has_the_verdict_of_a_replay():
    candidate = Candidate(method=LoRA(r=16, target_modules="all-linear"))
    request = Evaluator(ModelReference(id=SMALL["model"]), Device(), Needs(), length_given=True).request(candidate)
    ruled, replayed = (estimate(replace(request, reserved=by)).memory.required_bytes for by in ("rule", "replay"))
    assert replayed < ruled
    for usable, fits in (((ruled + replayed) // 2, True), (replayed - (1 << 21), False)):
        device = Device(memory_bytes=usable)
        evaluator = Evaluator(ModelReference(id=SMALL["model"]), device, Needs(), length_given=True)
        assert evaluator.trains(candidate) is fits
        assert evaluator.answer(candidate) == estimate(evaluator.request(candidate))


def test_a_run_that_is_far_too_large_states_its_tensors_without_a_replay():
    part = planned(NOTHING)
    assert not part.configurations
    sentences = [out.sentence for out in part.ruled_out if out.rule and out.rule.name == "fits"]
    assert any(sentence.startswith("Its tensors and CUDA alone need") for sentence in sentences)
    assert part.miss.estimate.reserved == "replay"
    ruled = planned(NOTHING, reserved="rule")
    assert all("alone" not in out.sentence for out in ruled.ruled_out)
    assert ruled.miss.short_bytes >= part.miss.short_bytes
