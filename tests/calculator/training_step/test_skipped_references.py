"""Passes without adapters after the trained pass: estimates that leave them out equal those that interpret them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from calculator.allocator import reserved_rule
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.estimation.series import SeriesCache
from calculator.training_step import model_passes, reference_counts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from calculator.estimation.estimate import Estimate
    from calculator.methods.prepared_model import PreparedModel
    from calculator.training_step.step import TrainingStep

LORA = {"name": "lora", "r": 8, "target_modules": "all-linear"}


def _body(trainer: str, method: dict[str, Any] = LORA, **training: Any) -> dict[str, Any]:
    given = {"trainer": trainer, "gradient_checkpointing": True, "micro_batch_size": 2, "sequence_length": 1500}
    return {
        "model": "meta-llama/Llama-3.1-8B",
        "method": method,
        "training": {**given, **training},
        "reserved": "rule",
    }


BODIES = {
    "DPO": _body("trl-dpo"),
    "KTO": _body("trl-kto"),
    "4 bits": _body("trl-dpo", {**LORA, "name": "qlora"}, sequence_length=2048),
    "DoRA": _body("trl-dpo", {**LORA, "use_dora": True}, sequence_length=77),
    "several micro-batches": _body("trl-kto", gradient_accumulation_steps=3, micro_batch_size=3),
    "few labels": _body("trl-dpo", completion_tokens=9),
}


def _figures(body: dict[str, Any]) -> tuple[object, ...]:
    answer: Estimate = estimate(parse_request(body), SeriesCache())
    return answer.memory, answer.fit


def _interpreted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the no-grad passes that are interpreted from now on."""
    names: list[str] = []
    run = model_passes.ModelPasses._run

    def listed(self: model_passes.ModelPasses, prepared: PreparedModel, name: str, *given: Any, **options: Any) -> Any:
        names.append(name)
        return run(self, prepared, name, *given, **options)

    monkeypatch.setattr(model_passes.ModelPasses, "_run", listed)
    return names


@pytest.mark.parametrize("name", BODIES)
def test_figures_do_not_depend_on_whether_a_reference_is_interpreted(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = _figures(BODIES[name])
    monkeypatch.setattr(model_passes, "may_derive_reference", lambda *_: False)
    assert _figures(BODIES[name]) == found


@pytest.mark.parametrize("name", BODIES)
def test_the_counts_of_a_reference_by_itself_give_the_same_figures(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = _figures(BODIES[name])
    determined: Callable[..., dict[int, int] | None] = reserved_rule._determined

    def undetermined(
        step: TrainingStep,
        counts: dict[int, int],
        references: Mapping[int, int],
        exact: Mapping[int, int] | None = None,
    ) -> dict[int, int] | None:
        return None if references else determined(step, counts, references, exact)

    monkeypatch.setattr(reserved_rule, "_determined", undetermined)
    names = _interpreted(monkeypatch)
    assert _figures(BODIES[name]) == found
    assert ("" in names) == (name != "4 bits")  # whose bound reaches the peak


@pytest.mark.parametrize("trainer", ["trl-dpo", "trl-kto"])
def test_a_reference_without_adapters_is_not_interpreted(trainer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_counts, "bounds", lambda *_: {})
    names = _interpreted(monkeypatch)
    _figures(_body(trainer))
    assert not names


def test_a_reference_that_may_reach_the_peak_is_interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    names = _interpreted(monkeypatch)
    _figures(_body("trl-dpo", {**LORA, "target_modules": ["q_proj"]}))
    assert names == ["reference: "]
