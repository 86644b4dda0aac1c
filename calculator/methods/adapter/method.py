"""Bottleneck adapters (Houlsby et al. 2019; Pfeiffer et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from calculator.architecture.dimension import elements, named
from calculator.common.errors import refusal
from calculator.engine import operations as ops
from calculator.engine import products
from calculator.inputs.settings import setting
from calculator.layers.activation import activation
from calculator.methods.adapter.facts import FACTS
from calculator.methods.base import Method
from calculator.resident.tensors import ResidentTensor

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.architecture.model import Model
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter(Method):
    """Bottleneck adapters: up(act(down(x))) with biases, added to x. Each has 2·d·r + r + d parameters."""

    name = "adapter"
    facts = FACTS
    refuses_checkpoint = "the whole model is written, with modules that are no part of PEFT"
    classifier_copy = None

    bottleneck_size: int = setting(
        64, label="Bottleneck size", help="The adapter's inner width r.", minimum=1, maximum=65_536, example=64
    )
    placement: Literal["houlsby", "pfeiffer"] = setting(
        "houlsby", label="Placement", help="After attention and after the MLP (houlsby), or after the MLP (pfeiffer)."
    )
    non_linearity: Literal["relu", "gelu", "silu", "tanh"] = setting(
        "relu", label="Non-linearity", help="The function between the two projections."
    )

    @property
    def label_parts(self) -> tuple[str, ...]:
        """The bottleneck's width."""
        return (f"bottleneck {self.bottleneck_size}",)

    def check(self, model: Model, training: Training) -> None:
        """Refuse a model whose layers have two sublayers in place of an MLP, or of attention."""
        names = {module.name.partition(".")[0] for layer in set(model.decoder.layers) for module in layer.modules}
        if {"block_sparse_moe", "shared_mlp"} <= names:
            message = f"an adapter after the experts and the shared MLP of {model.model_type} is not modeled"
            raise refusal("method.name", f"{message}: use another method", self.name)
        if "mixer" in names or any(layer.kind.attention == "hybrid" for layer in set(model.decoder.layers)):
            message = f"layers of {model.model_type} are no attention followed by an MLP: use another method"
            raise refusal("method.name", message, self.name)
        Method.check(self, model, training)

    def _shapes(self, model: Model) -> dict[str, Shape]:
        d, r = model.config["hidden_size"], named(self.bottleneck_size, "bottleneck_size")
        return {"down.weight": (r, d), "down.bias": (r,), "up.weight": (d, r), "up.bias": (d,)}

    def added(self, model: Model, training: Training) -> tuple[ResidentTensor, ...]:
        """Return two matrices and two biases after each adapted sublayer of every layer.

        Cross-attention gets none.
        """
        sublayers = ("mlp",) if self.placement == "pfeiffer" else ("attention", "mlp")
        return tuple(
            ResidentTensor(
                name=f"{stack.name}.*.{sublayer}.adapter.{name}",
                shape=shape,
                dtype=training.added_dtype,
                component="adapter_weights",
                count=len(stack.layers),
                parameters=elements(shape),
                trained=True,
                base=False,
            )
            for stack in model.stacks
            for sublayer in sublayers
            for name, shape in self._shapes(model).items()
        )

    def after_sublayer(
        self, context: Context, modules: LayerModules, sublayer: Literal["attention", "mlp"], hidden_states: Tensor
    ) -> Tensor:
        """Run the adapter after a sublayer, in the adapter's dtype, and add the adapter's input."""
        if sublayer == "attention" and self.placement == "pfeiffer":
            return hidden_states
        dtype = context.training.added_dtype
        context.set_scope(f"{modules.prefix}{sublayer}.adapter: ")
        weights = {
            name: context.parameters.new(f"{modules.prefix}{sublayer}.adapter.{name}", shape, dtype, trained=True)
            for name, shape in self._shapes(context.model).items()
        }
        x = ops.cast(hidden_states, dtype, "input in the adapter's dtype")
        x = products.matmul(x, weights["down.weight"], weights["down.bias"], self.bottleneck_size, "down")
        x = activation(self.non_linearity)(x)
        x = products.matmul(x, weights["up.weight"], weights["up.bias"], hidden_states.shape[-1], "up")
        x = ops.cast(x, hidden_states.dtype, "update")
        return ops.add(x, hidden_states, "output")
