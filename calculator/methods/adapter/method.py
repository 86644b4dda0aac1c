"""Bottleneck adapters (Houlsby et al. 2019; Pfeiffer et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from calculator.architecture.dimension import elements, named
from calculator.common.errors import refusal
from calculator.engine import operations as ops
from calculator.engine import products
from calculator.engine.module_calls import enter, external, leave
from calculator.inputs.settings import setting
from calculator.layers.activation import activation
from calculator.methods.adapter.facts import FACTS
from calculator.methods.base import Method
from calculator.resident.tensor import ResidentTensor

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

    def around_sublayer(self, modules: LayerModules, sublayer: Literal["attention", "mlp"]) -> tuple[str, ...]:
        """Return the path of the module that calls the sublayer and its adapter."""
        is_adapted = sublayer == "mlp" or self.placement == "houlsby"
        return (f"{modules.prefix}{sublayer}.adapted",) if is_adapted else ()

    def after_sublayer(
        self, context: Context, modules: LayerModules, sublayer: Literal["attention", "mlp"], hidden_states: Tensor
    ) -> Tensor:
        """Run the adapter after a sublayer, and end the call of the module around both."""
        for around in self.around_sublayer(modules, sublayer):
            hidden_states = leave(around, self._adapt(context, f"{modules.prefix}{sublayer}.adapter", hidden_states))
        return hidden_states

    def _adapt(self, context: Context, path: str, hidden_states: Tensor) -> Tensor:
        """Run the adapter in its own dtype, and add its input: (..., hidden_size) to the same shape."""
        dtype = context.training.added_dtype
        context.set_scope(f"{path}: ")
        weights = {
            name: context.parameters.new(f"{path}.{name}", shape, dtype, trained=True)
            for name, shape in self._shapes(context.model).items()
        }

        def linear(name: str, x: Tensor, width: int) -> Tensor:
            x = enter(f"{path}.{name}", x)
            product = products.matmul(x, weights[f"{name}.weight"], weights[f"{name}.bias"], width, name)
            return leave(f"{path}.{name}", product)

        hidden_states = enter(path, hidden_states)
        external(path, weights["down.weight"])
        x = ops.cast(hidden_states, dtype, "input in the adapter's dtype")
        x = linear("down", x, self.bottleneck_size)
        x = activation(self.non_linearity)(x)
        x = linear("up", x, hidden_states.shape[-1])
        x = ops.cast(x, hidden_states.dtype, "update")
        return leave(path, ops.add(x, hidden_states, "output"))
