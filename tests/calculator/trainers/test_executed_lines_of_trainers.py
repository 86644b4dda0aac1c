"""The work of an estimate with a trainer, in multiples of the lines that one without a trainer executes."""

from __future__ import annotations

from typing import Any

import pytest

from calculator.estimation.estimate import estimate
from calculator.estimation.series import SeriesCache
from calculator.training_step.rollout import Rollout
from tests.executed_lines import executed_lines
from validation.benchmark.trainers import TRAINERS, answering, estimating_alone, estimating_in_a_series, request_of

BODY: dict[str, Any] = {"model": "meta-llama/Llama-3.1-8B", "reserved": "rule"}
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"name": "lora", "r": 16, "target_modules": "all-linear"},
    "full": {"name": "full"},
}

#: The most multiples of an estimate by itself and of a further length, with LoRA and then with full fine-tuning, of the
#: Python from 3.11 to 3.13 that counts the most lines.
MOST = {
    "transformers": (1.05, 1.18, 1.06, 1.17),
    "trl-sft": (1.12, 1.24, 1.16, 1.22),
    "trl-dpo": (1.23, 1.26, 1.36, 1.23),
    "trl-kto": (1.26, 1.38, 1.38, 1.36),
    "trl-orpo": (1.23, 1.32, 1.34, 1.33),
    "trl-grpo": (1.30, 1.46, 1.30, 1.43),
    "trl-rloo": (1.36, 1.54, 1.41, 1.49),
    "torchtune": (1.39, 1.37, 1.50, 1.25),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("trainer", TRAINERS)
def test_an_estimate_with_a_trainer_executes_few_more_lines(trainer: str, method: str) -> None:
    body = {**BODY, "method": METHODS[method]}
    plain, other = request_of(body), request_of(body, trainer)
    of_method = 2 * [*METHODS].index(method)
    for run, most in zip((estimating_alone, estimating_in_a_series), MOST[trainer][of_method:], strict=False):
        runs = run(plain), run(other)
        for first in runs:
            first()
        before, after = map(executed_lines, runs)
        assert after / before < most


#: The most multiples of an answer of which every figure is read, with LoRA and with full fine-tuning.
MOST_OF_WHOLE = {
    "transformers": (1.05, 1.05),
    "trl-sft": (1.15, 1.13),
    "trl-dpo": (1.26, 1.32),
    "trl-kto": (1.28, 1.35),
    "trl-orpo": (1.23, 1.29),
    "trl-grpo": (1.32, 1.34),
    "trl-rloo": (1.38, 1.46),
    "torchtune": (1.4, 1.43),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_whole_answer_with_a_trainer_executes_few_more_lines(trainer: str, method: str) -> None:
    body = {**BODY, "method": METHODS[method]}
    runs = [answering(request_of(body)), answering(request_of(body, trainer))]
    for first in runs:
        first()
    before, after = map(executed_lines, runs)
    assert after / before < MOST_OF_WHOLE[trainer][[*METHODS].index(method)]


#: The most multiples of an estimate by replay, with LoRA.
MOST_REPLAYED = {
    "trl-sft": 1.26,
    "trl-dpo": 1.43,
    "trl-kto": 1.63,
    "trl-orpo": 1.47,
    "trl-grpo": 1.34,
    "trl-rloo": 1.55,
}


@pytest.mark.parametrize("trainer", MOST_REPLAYED)
def test_a_replay_with_a_trainer_executes_few_more_lines(trainer: str) -> None:
    body = {**BODY, "method": METHODS["lora"], "reserved": "replay"}
    runs = estimating_alone(request_of(body)), estimating_alone(request_of(body, trainer))
    for first in runs:
        first()
    before, after = map(executed_lines, runs)
    assert after / before < MOST_REPLAYED[trainer]


@pytest.mark.parametrize("reserved", ["rule", "replay"])
def test_an_estimate_interprets_one_pass_of_generate_when_its_phases_are_read(
    reserved: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[Rollout] = []
    run = Rollout._run
    monkeypatch.setattr(Rollout, "_run", lambda self, *given: runs.append(self) or run(self, *given))
    request = request_of({**BODY, "method": METHODS["lora"], "reserved": reserved}, "trl-grpo")
    memory = estimate(request, SeriesCache()).memory
    assert not runs
    assert [phase.name for phase in memory.phases] == ["generation", "forward", "backward", "optimizer_step"]
    assert memory.timeline[0].phase == "generation"
    assert len(runs) == 1
