"""Models that transformers builds from a `config.json`, on the meta device."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
import transformers

from calculator.families import FAMILIES
from validation.reference.build import has_own_head, untie
from validation.reference.uninitialized import without_values

AUTO_CLASSES = {
    "base": transformers.AutoModel,
    "causal": transformers.AutoModelForCausalLM,
    "image-text-to-text": transformers.AutoModelForImageTextToText,
    "masked-lm": transformers.AutoModelForMaskedLM,
    "image-classification": transformers.AutoModelForImageClassification,
    "speech-seq2seq": transformers.AutoModelForSpeechSeq2Seq,
    "seq2seq": transformers.AutoModelForSeq2SeqLM,
}

#: A dtype that no module sets for itself. It shows which tensors have the model's dtype.
OWN = torch.float16


def real_config(config: dict[str, Any]) -> transformers.PreTrainedConfig:
    """Return the object of the config class, made from a copy, which the class modifies."""
    return transformers.AutoConfig.for_model(**deepcopy(config))


def real_model(config: dict[str, Any]) -> torch.nn.Module:
    """Return the model on the meta device, in half precision."""
    auto = AUTO_CLASSES[FAMILIES[config["model_type"]].auto_class]
    with torch.device("meta"), without_values():
        model = auto.from_config(real_config(config), dtype=OWN)
    if has_own_head(config):
        untie(model)
    return model


def dtype_name(tensor: torch.Tensor) -> str:
    """Return the tensor's dtype, or "model" if it is the model's."""
    return "model" if tensor.dtype == OWN else str(tensor.dtype).removeprefix("torch.")
