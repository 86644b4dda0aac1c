"""A decoder layer with a method's modules that is served: the prompt in one pass, then token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import peft
import torch
from transformers import DynamicCache

from calculator.estimation.request import parse_request
from calculator.methods import Prefix, Prompt
from validation.reference.build import build_model
from validation.tracing.initial_tensors import quantization_constants

if TYPE_CHECKING:
    from torch import nn

#: A small vocabulary, so that the layer dominates.
VOCABULARY = 256


def layer_of(width: int) -> dict[str, Any]:
    """Return the config of a one-layer Llama with about the proportions of the 7B; 4-bit kernels support its sizes."""
    return {
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": width * 11 // 4,
        "num_hidden_layers": 1,
        "num_attention_heads": width // 128,
        "num_key_value_heads": width // 128,
        "vocab_size": VOCABULARY,
    }


class Served:
    """One layer with a method, and its cache after a prompt of `tokens`."""

    def __init__(
        self, method: dict[str, Any], width: int, tokens: int, device: torch.device, *, merged: bool = False
    ) -> None:
        training = {"dtype": "bfloat16", "adapter_dtype": "model"}
        body = {"model": {"config": layer_of(width)}, "method": method, "training": training}
        request = parse_request(body)
        self.method = request.method
        wrapped = build_model(request, device).model
        self.model: nn.Module = wrapped.merge_and_unload() if merged else wrapped
        self.model.eval()
        self.weight_bytes = self._weight_bytes()  # before a CPU kernel repacks 4-bit weights
        self.ids = torch.randint(0, VOCABULARY, (1, tokens), device=device)
        self.cache = DynamicCache()
        self._fill()
        self.length = self.cache.get_seq_length()

    @torch.inference_mode()
    def prompt(self) -> None:
        """Run the whole prompt in one pass."""
        self.model(input_ids=self.ids, use_cache=False)

    @torch.inference_mode()
    def token(self) -> None:
        """Run one token after the prompt."""
        self._base()(input_ids=self.ids[:, :1], past_key_values=self.cache, use_cache=True)
        self.cache.crop(-1)

    def _weight_bytes(self) -> int:
        """Return bytes of every parameter and constant, including those that produce a prefix or prompt."""
        parameters = [*self.model.parameters()]
        states = [getattr(parameter, "quant_state", None) for parameter in parameters]
        constants = [
            tensor for state in states for name, tensor in quantization_constants(state) if name != "name2qmap"
        ]
        return sum(tensor.nbytes for tensor in (*parameters, *constants))

    def cache_bytes(self) -> int:
        """Return bytes of the keys and values after the prompt."""
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in self.cache.layers)

    @torch.inference_mode()
    def _fill(self) -> None:
        """Fill the cache with the prompt, after the method's virtual tokens."""
        inputs: dict[str, Any] = {"input_ids": self.ids}
        if isinstance(self.method, Prefix):
            self.cache = self.model.get_prompt(batch_size=1)
        elif isinstance(self.method, Prompt):
            embedded = self._base().get_input_embeddings()(self.ids)
            inputs = {"inputs_embeds": torch.cat([self.model.get_prompt(batch_size=1).to(embedded.dtype), embedded], 1)}
        self._base()(**inputs, past_key_values=self.cache, use_cache=True)

    def _base(self) -> Any:
        """Return the base model of a prefix or prompt; for other methods, the adapted model."""
        learned = isinstance(self.method, Prefix | Prompt) and isinstance(self.model, peft.PeftModel)
        return self.model.get_base_model() if learned else self.model
