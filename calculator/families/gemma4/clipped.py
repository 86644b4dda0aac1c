"""Linear layers of Gemma 4's towers, in a module that may clip its input and output: Gemma4ClippableLinear."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.module import Buffer, linear
from calculator.engine import indexing

if TYPE_CHECKING:
    from calculator.architecture.config import Config
    from calculator.engine.tape import Tensor
    from calculator.families.blocks import Owned
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules

_LIMITS = ("input_min", "input_max", "output_min", "output_max")


def clippable(config: Config, name: str, in_features: int, out_features: int) -> Owned:
    """Return the module: a linear layer without a bias, and four limits if `use_clipped_linears` is set."""
    limits = _LIMITS if config["use_clipped_linears"] else ()
    buffers = (Buffer(name=f"{name}.{limit}", shape=(), dtype="model", persistent=True) for limit in limits)
    return (linear(f"{name}.linear", in_features, out_features), *buffers)


def run(context: Context, modules: LayerModules, name: str, x: Tensor) -> Tensor:
    """Run the module: (..., in_features) to (..., out_features)."""
    clips = context.config["vision_config"]["use_clipped_linears"]
    if clips:
        context.set_scope(f"{modules.prefix}{name}: ")
        x = indexing.clamp(x, "input, clipped")
    x = modules[f"{name}.linear"](x)
    if clips:
        context.set_scope(f"{modules.prefix}{name}: ")
        x = indexing.clamp(x, "output, clipped")
    return x
