"""Cut Cross-Entropy in the place of a model's head and loss, as axolotl's plugin patches it in.

The package's own patches import names that transformers 5 no longer has, so the forward pass of a causal language model
is written here; the loss is the package's, with Triton launches that do nothing.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any
from unittest import mock

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast

from calculator.common.errors import refusal

INSTALL = "pip install 'cut-cross-entropy @ git+https://github.com/apple/ml-cross-entropy.git'"


def install(model_type: str) -> None:
    """Patch the family's class for the rest of the process.

    Raises:
        PlanError: if the package is not installed.
    """
    if find_spec("cut_cross_entropy") is None:
        raise refusal("training.cut_cross_entropy", f"the package is not installed: {INSTALL}", True)
    torch.cuda.is_bf16_supported = lambda *_, **__: True
    torch.get_autocast_gpu_dtype = lambda: torch.get_autocast_dtype("cuda")
    with mock.patch("torch.compile", _uncompiled):
        kernels: Any = import_module("cut_cross_entropy.cce_backward")
    kernels.is_triton_greater_or_equal_3_2_0 = lambda: True
    model_class: Any = AutoModelForCausalLM._model_mapping[type(AutoConfig.for_model(model_type))]
    model_class.forward = _forward


def _uncompiled(function: Any = None, **_: Any) -> Any:
    return (lambda given: given) if function is None else function


def _forward(
    self: Any, input_ids: Any = None, attention_mask: Any = None, labels: Any = None, **kwargs: Any
) -> CausalLMOutputWithPast:
    """Return the loss without logits. The Trainer passes on the columns that the signature names.

    Source: cut_cross_entropy/transformers/llama.py, and utils.py, apply_lce.
    """
    package = import_module("cut_cross_entropy")
    outputs = self.model(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
    hidden_states, items = outputs[0], kwargs["num_items_in_batch"]
    softcap = getattr(self.config, "final_logit_softcapping", None)
    loss = package.linear_cross_entropy(
        hidden_states,
        self.lm_head.weight,
        labels.to(hidden_states.device),
        shift=True,
        softcap=softcap,
        reduction="sum",
        filter_eps="auto",
    )
    return CausalLMOutputWithPast(loss=loss / items, past_key_values=outputs.past_key_values)
