"""Model families by `model_type`, and the model that a `config.json` describes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calculator.architecture.config import shown
from calculator.common.errors import refusal
from calculator.families.apertus import weights as apertus
from calculator.families.bart import weights as bart
from calculator.families.bert import weights as bert
from calculator.families.bloom import weights as bloom
from calculator.families.cohere import weights as cohere
from calculator.families.deberta import weights as deberta
from calculator.families.deepseek import weights as deepseek
from calculator.families.distilbert import weights as distilbert
from calculator.families.falcon import weights as falcon
from calculator.families.family import Family
from calculator.families.gemma import weights as gemma
from calculator.families.gemma3 import weights as gemma3
from calculator.families.glm import weights as glm
from calculator.families.gpt2 import weights as gpt2
from calculator.families.gpt_neo import weights as gpt_neo
from calculator.families.gpt_neox import weights as gpt_neox
from calculator.families.gpt_oss import weights as gpt_oss
from calculator.families.gptj import weights as gptj
from calculator.families.granite import weights as granite
from calculator.families.llama import weights as llama
from calculator.families.mixtral import weights as mixtral
from calculator.families.modernbert import weights as modernbert
from calculator.families.mpt import weights as mpt
from calculator.families.nemotron import weights as nemotron
from calculator.families.olmo import weights as olmo
from calculator.families.opt import weights as opt
from calculator.families.phi import weights as phi
from calculator.families.qwen import weights as qwen
from calculator.families.smollm3 import weights as smollm3
from calculator.families.stablelm import weights as stablelm
from calculator.families.starcoder2 import weights as starcoder2
from calculator.families.t5 import weights as t5

if TYPE_CHECKING:
    from calculator.architecture.model import Model

#: Every family, by its `model_type`.
FAMILIES: dict[str, Family] = {
    family.model_type: family
    for group in (
        apertus,
        bart,
        bert,
        bloom,
        cohere,
        deberta,
        deepseek,
        distilbert,
        falcon,
        gemma,
        gemma3,
        glm,
        gpt2,
        gpt_neo,
        gpt_neox,
        gpt_oss,
        gptj,
        granite,
        llama,
        mixtral,
        modernbert,
        mpt,
        nemotron,
        olmo,
        opt,
        phi,
        qwen,
        smollm3,
        stablelm,
        starcoder2,
        t5,
    )
    for family in group.FAMILIES
}

__all__ = ["FAMILIES", "Family", "model_from_config"]


def model_from_config(config: dict[str, Any], *, id: str | None = None) -> Model:  # noqa: A002  the API's word
    """The model that transformers would build from this `config.json`.

    Raises:
        PlanError: where its family is not known, or a field is missing, wrong or contradictory.
    """
    if not isinstance(config, dict):
        raise refusal("model.config", f"must be the content of a config.json, an object, not {shown(config)}", config)
    if config.get("per_layer_config") is not None:
        message = "sets sizes layer by layer, which is not modelled; leave it out"
        raise refusal("model.config.per_layer_config", message, config["per_layer_config"])
    model_type = config.get("model_type")
    known = ", ".join(sorted(FAMILIES))
    if model_type is None:
        raise refusal("model.config.model_type", f"is required, to know the family; known families are {known}")
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        message = f"{shown(model_type)} is not a known family; known families are {known}"
        raise refusal("model.config.model_type", message, model_type)
    return family.model(config, id)
