"""The real module of a layer's case."""

from __future__ import annotations

from typing import TYPE_CHECKING

import bitsandbytes as bnb
import peft
import torch
from peft.tuners import PrefixEncoder, PromptEmbedding
from torch import Tensor, nn

from calculator.estimation.estimate import resident_state
from calculator.families import forward_of
from calculator.layers.context import Context
from calculator.methods import Adapter, LoRA, Prefix, Prompt, QLoRA
from validation.reference import methods
from validation.reference.bottleneck import Bottleneck

if TYPE_CHECKING:
    from calculator.estimation.request import Request
    from validation.measure.layer_cases import LayerCase


class Subject:
    """A layer on a device: its module, input and forward pass."""

    def __init__(self, case: LayerCase, device: torch.device) -> None:
        self.request: Request = case.request
        self.method = case.request.method
        self.device = device
        self.dtype: torch.dtype = getattr(torch, case.request.training.dtype)
        prepared = resident_state(case.request).prepared
        self.context = Context(prepared, forward_of(prepared.model))
        self.path = case.module
        self.module = self._build()

    def trainable(self) -> list[nn.Parameter]:
        """Return the trainable parameters."""
        return [parameter for parameter in self.module.parameters() if parameter.requires_grad]

    def input(self) -> Tensor | None:
        """Hidden states (1, tokens, width) that require a gradient; None for a prefix or prompt, which has no input."""
        if isinstance(self.method, Prefix | Prompt):
            return None
        width = self._shape()[1] if self.path else int(self.context.config["hidden_size"])
        shape = (1, self.request.training.sequence_length, width)
        return torch.randn(shape, dtype=self.dtype, device=self.device).requires_grad_()

    def forward(self, x: Tensor | None) -> Tensor:
        """Return the layer's output.

        For a prefix or prompt, return the encoder's output for a batch of one, as in PEFT.
        """
        if x is not None:
            out: Tensor = self.module(x)
            return out
        assert isinstance(self.method, Prefix | Prompt)
        indices = torch.arange(self.method.num_virtual_tokens, device=self.device).repeat(1, 1)
        encoded: Tensor = self.module(indices)
        return encoded.repeat(1, 1, 1) if isinstance(self.method, Prompt) else encoded

    def _shape(self) -> tuple[int, int]:
        module = next(m for m in self.context.layers[0].modules if m.name == self.path)
        return int(module.out_features), int(module.in_features)

    def _build(self) -> nn.Module:
        if self.path is not None:
            return self._linear()
        width = int(self.context.config["hidden_size"])
        added = methods.adapter_dtype(self.request)
        with self.device:
            if isinstance(self.method, Adapter):
                return Bottleneck(width, self.method, added)
            if isinstance(self.method, Prefix):
                return PrefixEncoder(self._prefix_config(self.method))
            assert isinstance(self.method, Prompt)
            config = peft.PromptTuningConfig(
                num_virtual_tokens=self.method.num_virtual_tokens, num_transformer_submodules=1, token_dim=width
            )
            return PromptEmbedding(config, None)

    def _prefix_config(self, method: Prefix) -> peft.PrefixTuningConfig:
        config = self.context.config
        width = int(config["num_key_value_heads"]) * int(config["head_dim"])
        return peft.PrefixTuningConfig(
            num_virtual_tokens=method.num_virtual_tokens,
            prefix_projection=method.prefix_projection,
            num_transformer_submodules=1,
            token_dim=width,
            num_layers=int(config["num_hidden_layers"]),
            encoder_hidden_size=width,
        )

    def _linear(self) -> nn.Module:
        """Return the base layer, dense or in 4 bits, inside PEFT's layer if it is a target."""
        out_features, in_features = self._shape()
        base = self._base(out_features, in_features)
        assert self.path is not None
        name = self.path.rpartition(".")[2]
        if not isinstance(self.method, LoRA | QLoRA) or name not in (self.method.target_modules or ()):
            return base
        parent = nn.Module()
        parent.register_module(name, base)
        parent.is_loaded_in_4bit = isinstance(self.method, QLoRA)  # without it PEFT uses its layer for dense weights
        with self.device:
            dtype = self.request.training.adapter_dtype
            wrapped = methods.low_rank(parent, self.method, dtype, task_type=None)
        layer = next(m for path, m in wrapped.named_modules() if path.endswith(f".{name}"))
        for parameter_name, parameter in layer.named_parameters():
            if "lora_B" in parameter_name:
                nn.init.normal_(parameter, std=methods.WEIGHT_STD)
        return layer

    def _base(self, out_features: int, in_features: int) -> nn.Module:
        if not isinstance(self.method, QLoRA):
            dense = nn.Linear(in_features, out_features, bias=False, dtype=self.dtype, device=self.device)
            return dense.requires_grad_(not isinstance(self.method, LoRA))
        layer = bnb.nn.Linear4bit(
            in_features,
            out_features,
            bias=False,
            compute_dtype=self.dtype,
            compress_statistics=self.method.double_quant,
            quant_type=self.method.quant_type,
            device="meta",
        )
        methods.quantize_layer(layer, self.method.blocksize, self.dtype, self.device)
        return layer
