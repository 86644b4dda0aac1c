"""Refusals of GPT-BigCode in older releases."""

from __future__ import annotations

import pytest

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request

CONFIG = {"model_type": "gpt_bigcode", "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 100, "n_positions": 64}


def body(transformers: str, config: dict[str, object], training: dict[str, object]) -> dict[str, object]:
    sized = {"sequence_length": 16, **training}
    return {"model": {"config": {**CONFIG, **config}}, "training": sized, "stack": {"transformers": transformers}}


@pytest.mark.parametrize(
    ("transformers", "config", "training", "loc", "way_out"),
    [
        ("4.53", {}, {"attention": "eager"}, "training.attention", "use sdpa"),
        ("4.53", {"multi_query": False}, {}, "stack.transformers", "use 5.24"),
        ("4.57", {}, {"gradient_checkpointing": True}, "training.gradient_checkpointing", "use false"),
        ("4.44", {}, {}, "stack.transformers", "from 4.45 on it is"),
    ],
)
def test_unknown_settings_and_those_without_effect_are_refused(
    transformers: str, config: dict[str, object], training: dict[str, object], loc: str, way_out: str
) -> None:
    with pytest.raises(PlanError) as refused:
        estimate(parse_request({"method": {"name": "full"}, **body(transformers, config, training)}))
    (found,) = refused.value.problems
    assert found.loc == loc
    assert way_out in found.msg


def test_checkpointing_is_answered_if_it_has_an_effect() -> None:
    for transformers in ("4.53", "5.0"):
        request = {"method": {"name": "full"}, **body(transformers, {}, {"gradient_checkpointing": True})}
        assert estimate(parse_request(request)).memory.peak_allocated_bytes > 0
