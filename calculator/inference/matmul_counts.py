"""The matrix products of a token's forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.architecture.dimension import elements
from calculator.architecture.layer_kind import RECURRENT_TYPES

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.architecture.config import Config
    from calculator.architecture.layer_kind import LayerKind
    from calculator.architecture.model import Layer, Model
    from calculator.architecture.module import Module


@dataclass(frozen=True, slots=True, kw_only=True)
class Products:
    """The number of weights that each token is multiplied with."""

    layers: int
    head: int
    #: Multiplied by the number of positions, the forward operations of attention's two causal products.
    attention: int

    @property
    def weights(self) -> int:
        """The number of weights of layers and head."""
        return self.layers + self.head


def products(model: Model) -> Products:
    """Count the products of one token's forward pass. Of experts, those that the token is routed to count."""
    config = model.config
    share = config["num_experts_per_tok"] / config["num_experts"] if config.get("num_experts") else 1.0
    return Products(
        layers=round(sum(_per_token(layer, share) * times for layer, times in model.decoder.distinct)),
        head=int(elements(model.embedding.weight.shape)) if "embedding" in model.kinds else 0,
        attention=2 * sum(_width(config, layer.kind) * times for layer, times in model.decoder.distinct),
    )


def trained_products(model: Model, trains: Callable[[str, Module], bool]) -> int:
    """Count the weights of one token's products that are trained. `trains` gets a module's path and the module."""
    config, stack = model.config, model.decoder
    share = config["num_experts_per_tok"] / config["num_experts"] if config.get("num_experts") else 1.0
    inside = sum(
        _multiplied(module, share) * times
        for layer, times in stack.distinct
        for module in layer.modules
        if trains(module.under(f"{stack.name}.*"), module)
    )
    outer = model.outer.values() if model.head is not None else ()
    head = next((module for module in outer if module.name == model.head), None)
    if f"{model.head}.weight" in model.tied:
        head = model.embedding
    return round(inside) + (int(elements(head.weight.shape)) if head is not None and trains(head.name, head) else 0)


def _width(config: Config, kind: LayerKind) -> int:
    """Return the width of all heads of a layer's queries, or 0 for a layer without attention."""
    if kind.attention in RECURRENT_TYPES or kind.attention == "mlp":
        return 0
    heads = int(config["num_attention_heads"])
    global_width = config.get("global_head_dim") if kind.attention == "full_attention" else None
    return heads * int(global_width or config.get("head_dim") or config["hidden_size"] // heads)


def _per_token(layer: Layer, share: float) -> float:
    return sum(_multiplied(module, share) for module in layer.modules)


def _multiplied(module: Module, share: float) -> float:
    if module.kind in ("linear", "conv1d"):
        return int(elements(module.weight.shape))
    return share * sum(int(p.elements) for p in module.parameters) if module.kind == "experts" else 0
