"""Bottleneck adapters as PyTorch modules, inserted after a model's attention and MLP submodules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.methods import Adapter

#: The families' names for the submodules that an adapter follows.
ATTENTION = ("self_attn", "attn", "attention", "self_attention", "conv", "linear_attn", "mamba")
MLP = ("mlp", "block_sparse_moe", "feed_forward", "ffn", "fc2", "shared_mlp")

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}


class Bottleneck(nn.Module):
    """up(act(down(x))) + x over (..., hidden_size), in the adapter's own dtype (Houlsby et al. 2019)."""

    def __init__(self, width: int, method: Adapter, dtype: torch.dtype) -> None:
        super().__init__()
        self.down = nn.Linear(width, method.bottleneck_size, dtype=dtype)
        self.act = ACTIVATIONS[method.non_linearity]()
        self.up = nn.Linear(method.bottleneck_size, width, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Adapt a sublayer's output."""
        return self.up(self.act(self.down(x.to(self.down.weight.dtype)))).to(x.dtype) + x


class Adapted(nn.Module):
    """A sublayer followed by an adapter."""

    def __init__(self, sublayer: nn.Module, adapter: Bottleneck) -> None:
        super().__init__()
        self.sublayer, self.adapter = sublayer, adapter

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the sublayer and adapt its output, or the first output of a tuple."""
        out = self.sublayer(*args, **kwargs)
        if isinstance(out, tuple):
            return self.adapter(out[0]), *out[1:]
        return self.adapter(out)


def insert(model: nn.Module, method: Adapter, dtype: torch.dtype, heads: tuple[str, ...] = ()) -> None:
    """Freeze a model except its task's head, and insert adapters after its sublayers, by the method's placement."""
    model.requires_grad_(False)
    for name, head in model.named_children():
        if heads and name.endswith(heads):
            head.requires_grad_(True)
    names = MLP if method.placement == "pfeiffer" else ATTENTION + MLP
    width = model.config.get_text_config().hidden_size
    for layer in layers(model):
        places = [*_t5_sublayers(layer, method), *_bert_sublayers(layer, method)] or [(layer, name) for name in names]
        for parent, name in places:
            if isinstance(getattr(parent, name, None), nn.Module):
                sublayer = getattr(parent, name)
                adapter = Bottleneck(width, method, dtype).to(next(layer.parameters()).device)
                setattr(parent, name, Adapted(sublayer, adapter))


def _bert_sublayers(layer: nn.Module, method: Adapter) -> Iterator[tuple[nn.Module, str]]:
    """Yield the dropouts that end the sublayers of BERT's layer, before each residual and norm: parents and names."""
    attention, output = getattr(layer, "attention", None), getattr(layer, "output", None)
    if attention is None or not hasattr(output, "dropout") or not hasattr(attention, "output"):
        return
    if method.placement == "houlsby":
        yield attention.output, "dropout"
    yield output, "dropout"


def _t5_sublayers(layer: nn.Module, method: Adapter) -> Iterator[tuple[nn.Module, str]]:
    """Yield the dropouts that end self-attention and the MLP of T5's layer, before each residual: parents and names."""
    for sublayer in getattr(layer, "layer", ()):
        attends = hasattr(sublayer, "SelfAttention") and method.placement == "houlsby"
        if attends or hasattr(sublayer, "DenseReluDense"):
            yield sublayer, "dropout"


def layers(model: nn.Module) -> list[nn.Module]:
    """Return the layers of encoder and decoder, or those of the text model if there is a vision tower."""
    if model.config.is_encoder_decoder:
        halves = [half for name, half in model.named_modules() if name.split(".")[-1] in ("encoder", "decoder")]
        return [layer for half in halves for layer in next(m for m in half.modules() if isinstance(m, nn.ModuleList))]
    inner = getattr(model, "model", None)
    text = getattr(inner, "language_model", getattr(inner, "text_model", model))
    lists = [module for module in text.modules() if isinstance(module, nn.ModuleList)]
    return [*next(modules for modules in lists if len(modules) == model.config.get_text_config().num_hidden_layers)]
