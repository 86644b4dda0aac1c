"""What transformers builds from a `config.json`, on the meta device."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
import transformers

from calculator.families import FAMILIES

AUTO_CLASSES = {
    "base": transformers.AutoModel,
    "causal": transformers.AutoModelForCausalLM,
    "image-text-to-text": transformers.AutoModelForImageTextToText,
    "masked-lm": transformers.AutoModelForMaskedLM,
    "seq2seq": transformers.AutoModelForSeq2SeqLM,
}

#: A dtype that no module names for itself, so that whatever follows the model's is told from what doesn't.
OWN = torch.float16


def real_config(config: dict[str, Any]) -> transformers.PreTrainedConfig:
    """The config class's object; it changes what it is given, so it gets a copy."""
    return transformers.AutoConfig.for_model(**deepcopy(config))


def real_model(config: dict[str, Any]) -> torch.nn.Module:
    """The model with weights of no storage, in half precision."""
    auto = AUTO_CLASSES[FAMILIES[config["model_type"]].auto_class]
    with torch.device("meta"):
        return auto.from_config(real_config(config), dtype=OWN)


def dtype_name(tensor: torch.Tensor) -> str:
    """The tensor's dtype, or "model" where it follows the model's."""
    return "model" if tensor.dtype == OWN else str(tensor.dtype).removeprefix("torch.")
