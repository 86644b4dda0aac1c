"""The families whose step is modelled, by `model_type`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import refusal
from calculator.families.apertus import forward as apertus
from calculator.families.bloom import forward as bloom
from calculator.families.cohere import forward as cohere
from calculator.families.deepseek import forward as deepseek
from calculator.families.falcon import forward as falcon
from calculator.families.gemma import forward as gemma
from calculator.families.glm import forward as glm
from calculator.families.gpt2 import forward as gpt2
from calculator.families.gpt_neo import forward as gpt_neo
from calculator.families.gpt_neox import forward as gpt_neox
from calculator.families.gpt_oss import forward as gpt_oss
from calculator.families.gptj import forward as gptj
from calculator.families.granite import forward as granite
from calculator.families.llama import forward as llama
from calculator.families.mixtral import forward as mixture
from calculator.families.mpt import forward as mpt
from calculator.families.nemotron import forward as nemotron
from calculator.families.olmo import forward as olmo
from calculator.families.opt import forward as opt
from calculator.families.phi import forward as phi
from calculator.families.phi import moe_forward
from calculator.families.stablelm import forward as stablelm
from calculator.families.starcoder2 import forward as starcoder2

if TYPE_CHECKING:
    from calculator.layers.decoder_forward import DecoderForward

PROGRAMS: dict[str, DecoderForward] = {
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
        moe_forward,
        stablelm,
        starcoder2,
    )
    for name, each in group.PROGRAMS.items()
}


def program(model_type: str) -> DecoderForward:
    """A family's code.

    Raises:
        PlanError: where the family's weights are known but its step is not modelled.
    """
    if model_type not in PROGRAMS:
        known = ", ".join(sorted(PROGRAMS))
        msg = f"the weights of {model_type} are known, its training step is not modelled; modelled are {known}"
        raise refusal("model", msg, model_type)
    return PROGRAMS[model_type]
