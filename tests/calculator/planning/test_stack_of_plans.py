"""The `stack` of a plan's request, which every candidate has."""

from __future__ import annotations

from typing import Any

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.planning.plan import plan
from calculator.planning.request import parse_plan

BODY = {
    "model": "meta-llama/Llama-3.2-1B",
    "device": {"gpu": "rtx-4090"},
    "needs": {"sequence_length": 512, "effective_batch_size": 4},
    "reserved": "rule",
    "stack": {"transformers": "4.48"},
}


def test_proposals_are_estimated_with_the_releases_and_unknown_methods_are_ruled_out() -> None:
    (part,) = plan(parse_plan(BODY)).plans
    assert {configuration.request.stack.transformers for configuration in part.configurations} == {"4.48"}
    for configuration in part.configurations:
        alone = estimate(configuration.request).memory
        assert configuration.estimate.memory.peak_allocated_bytes == alone.peak_allocated_bytes
    why = {out.method: out.sentence for out in part.ruled_out}
    assert "how transformers 4.48 runs the virtual tokens of prefix is not known" in why["prefix"]


@pytest.mark.parametrize(
    ("changes", "loc"),
    [
        ({"stack": {"transformers": "4.20"}}, "stack.transformers"),
        ({"model": "bigscience/bloom-560m", "stack": {"transformers": "4.45"}}, "stack.transformers"),
    ],
)
def test_releases_that_are_not_known_for_a_model_are_refused(changes: dict[str, Any], loc: str) -> None:
    with pytest.raises(PlanError) as refused:
        plan(parse_plan({**BODY, **changes}))
    assert {problem.loc for problem in refused.value.problems} == {loc}
