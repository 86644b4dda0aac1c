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


#: What to give instead of a family that is not modelled, where there is something that comes close.
INSTEAD = {
    "gemma3": (
        "its vision tower lies idle in a step without images, but its weights are there: for the text model alone,"
        " give the text_config with model_type gemma3_text"
    )
}


def program(model_type: str) -> Program:
    """A family's code.

    Raises:
        PlanError: where the family's weights are known but its step is not modelled.
    """
    if model_type not in PROGRAMS:
        way_out = INSTEAD.get(model_type) or f"modelled are {', '.join(sorted(PROGRAMS))}"
        msg = f"the weights of {model_type} are known, its training step is not modelled; {way_out}"
        raise refusal("model", msg, model_type)
    return PROGRAMS[model_type]
