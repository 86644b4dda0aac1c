"""Model families by `model_type`, and the model that a `config.json` describes."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any

from calculator.architecture.layer_kind import RECURRENT_TYPES
from calculator.architecture.per_model import per_model
from calculator.architecture.task import CAUSAL_LM
from calculator.common.errors import refusal, shown
from calculator.families.tasks import for_task
from calculator.layers.masks import attention_types

if TYPE_CHECKING:
    from calculator.architecture.model import Model
    from calculator.architecture.task import Task
    from calculator.families.family import Family
    from calculator.layers.decoder_forward import DecoderForward

#: The registry: one line per folder. `weights.py` of a folder lists its families, each with its forward pass.
FOLDERS = (
    "apertus",
    "arcee",
    "bamba",
    "bart",
    "bert",
    "bloom",
    "cohere",
    "deberta",
    "deepseek",
    "distilbert",
    "ernie",
    "exaone4",
    "falcon",
    "falcon_h1",
    "gemma",
    "gemma3",
    "gemma4",
    "glm",
    "glm4_moe",
    "gpt2",
    "gpt_neo",
    "gpt_neox",
    "gpt_oss",
    "gptj",
    "granite",
    "granite_hybrid",
    "hunyuan",
    "idefics3",
    "internvl",
    "jais2",
    "jamba",
    "lfm2",
    "llama",
    "llama4",
    "llava",
    "mamba2",
    "minimax",
    "ministral",
    "mistral3",
    "mixtral",
    "modernbert",
    "mpt",
    "nemotron",
    "nemotron_h",
    "olmo",
    "opt",
    "paligemma",
    "phi",
    "qwen",
    "qwen3_5",
    "qwen3_5_vl",
    "qwen_vl",
    "seed_oss",
    "smollm3",
    "stablelm",
    "starcoder2",
    "t5",
    "vit",
    "whisper",
)

#: Every family by `model_type`.
FAMILIES: dict[str, Family] = {
    family.model_type: family for folder in FOLDERS for family in import_module(f"{__name__}.{folder}.weights").FAMILIES
}

#: The sorted model types of transformers whose training step is modeled.
FAMILIES_WITH_FORWARD: tuple[str, ...] = tuple(
    sorted(name for name, family in FAMILIES.items() if family.forward is not None and family.built_as is None)
)


def forward_of(model: Model) -> DecoderForward:
    """Return the forward pass of a model's family.

    Raises:
        PlanError: if the step is only modeled for other tasks.
    """
    family = FAMILIES[model.model_type]
    task_forward = family.tasks.get(model.task.name)
    forward = family.forward if task_forward is None else task_forward.forward
    if forward is None:
        tasks = " or ".join(family.tasks)
        msg = f"the training step of {model.model_type} is not modeled for {model.task.name}: set task {tasks}"
        raise refusal("task", msg, model.task.name)
    return forward


@per_model
def has_no_length(model: Model) -> bool:
    """Return whether transformers raises an error because no layer has attention.

    The error occurs in Cache.get_seq_length, which needs a layer with attention. A model without positions does not
    call it.
    """
    recurrent = attention_types(model.decoder.layers) <= {*RECURRENT_TYPES, "mlp"}
    return recurrent and forward_of(model).takes_positions


def model_from_config(
    config: dict[str, Any],
    *,
    id: str | None = None,  # noqa: A002  the API's word
    task: Task = CAUSAL_LM,
) -> Model:
    """Return the model that transformers would build from a `config.json` for a task.

    Raises:
        PlanError: if its family is not known, or a field is missing, wrong or contradictory.
    """
    if not isinstance(config, dict):
        raise refusal("model.config", f"must be the content of a config.json, an object, not {shown(config)}", config)
    model_type = config.get("model_type")
    model_types = ", ".join(sorted(FAMILIES))
    if model_type is None:
        raise refusal("model.config.model_type", f"is required, to know the family; known families are {model_types}")
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        close = get_close_matches(model_type, FAMILIES, n=1) if isinstance(model_type, str) else []
        hint = f"did you mean {close[0]}? Known" if close else "known"
        message = f"{shown(model_type)} is not a known family; {hint} families are {model_types}"
        raise refusal("model.config.model_type", message, model_type)
    if config.get("per_layer_config") is not None and not family.sizes_per_layer:
        message = "sets sizes for each layer, which is not modeled: leave it out"
        raise refusal("model.config.per_layer_config", message, config["per_layer_config"])
    return for_task(family.model(config, id), FAMILIES, task, config)
