"""Names of methods in papers and other tools."""

from __future__ import annotations

import json
import re

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.methods.other_names import _WRITTEN


def _refusal(name: object) -> str:
    with pytest.raises(PlanError) as raised:
        parse_request({"model": "Qwen/Qwen3-0.6B", "method": {"name": name}})
    (problem,) = raised.value.problems
    assert problem.loc == "method.name"
    return problem.msg


@pytest.mark.parametrize("name", _WRITTEN)
def test_the_request_that_a_refusal_proposes_is_answered(name: str) -> None:
    message = re.fullmatch(
        r'.* is not a method; did you mean (\{.*?\})(?: with "training": (\{.*\}))?\? Methods are full, lora, .*',
        _refusal(name),
    )
    assert message
    method, training = message.groups()
    body = {"model": "Qwen/Qwen3-0.6B", "method": json.loads(method), "training": json.loads(training or "{}")}
    answer = estimate(parse_request(body))
    assert answer.memory.peak_allocated_bytes


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("QDoRA", '\'QDoRA\' is not a method; did you mean {"name": "qlora", "use_dora": true}'),
        ("prefix-tuning", '\'prefix-tuning\' is not a method; did you mean {"name": "prefix"}'),
        ("lorra", '\'lorra\' is not a method; did you mean {"name": "lora"}'),
        ("X-LoRA", '\'X-LoRA\' is not a method; did you mean {"name": "xlora"}'),
        ("Shadow", "'Shadow' is not modeled: "),
        ("lisa", '\'lisa\' is not a method; did you mean {"name": "full", "lisa_n_layers": 2}'),
        ("banana", "must be one of full, "),
        (None, "must be one of full, "),
    ],
)
def test_a_name_is_refused_with_a_solution(name: object, start: str) -> None:
    assert _refusal(name).startswith(start)
