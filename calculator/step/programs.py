"""The families whose step is modelled, by `model_type`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.errors import refusal
from calculator.step import (
    apertus,
    bloom,
    cohere,
    deepseek,
    falcon,
    gemma,
    glm,
    gpt2,
    gpt_neo,
    gpt_neox,
    gpt_oss,
    gptj,
    granite,
    llama,
    mixture,
    mpt,
    nemotron,
    olmo,
    opt,
    phi,
    phimoe,
    stablelm,
    starcoder2,
)

if TYPE_CHECKING:
    from calculator.step.program import Program

PROGRAMS: dict[str, Program] = {
    name: each
    for group in (
        apertus,
        bloom,
        cohere,
        deepseek,
        falcon,
        gemma,
        glm,
        gpt2,
        gpt_neo,
        gpt_neox,
        gpt_oss,
        gptj,
        granite,
        llama,
        mixture,
        mpt,
        nemotron,
        olmo,
        opt,
        phi,
        phimoe,
        stablelm,
        starcoder2,
    )
    for name, each in group.PROGRAMS.items()
}


def program(model_type: str) -> Program:
    """A family's code.

    Raises:
        PlanError: where the family's weights are known but its step is not modelled.
    """
    if model_type not in PROGRAMS:
        known = ", ".join(sorted(PROGRAMS))
        msg = f"the weights of {model_type} are known, its training step is not modelled; modelled are {known}"
        raise refusal("model", msg, model_type)
    return PROGRAMS[model_type]
