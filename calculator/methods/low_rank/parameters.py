"""Fused experts and routers that LoRA adapts as whole parameters: `target_parameters` (peft's ParamWrapper).

PEFT registers a parametrization of each parameter in every forward pass: W + scaling · B·A of all experts in one
tensor. The products save that tensor instead of W for the backward pass. Registering the parametrization computes it
once more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from calculator.architecture.dimension import named
from calculator.engine import operations as ops
from calculator.engine import products
from calculator.engine.autograd import Node, saves_factors
from calculator.methods.targeted.matching import is_named
from calculator.resident.module_spec import Added

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.architecture.module import Module, Parameter
    from calculator.common.dtype import DType
    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule

_A, _B = ".lora_A.weight", ".lora_B.weight"

#: The weights of experts. PEFT wraps the second one last.
_INNER, _OUTER = "gate_up_proj", "down_proj"


class AdapterSettings(Protocol):
    """The settings of a method that adapts parameters."""

    @property
    def target_parameters(self) -> tuple[str, ...] | None:
        """The ends of the names of adapted parameters."""

    def rank_of(self, name: str) -> int:
        """Return the rank of the update of a parameter."""

    def is_scaled(self, name: str) -> bool:
        """Return whether the update is multiplied by a number other than 1."""


def targeted(names: tuple[str, ...] | None, path: str, module: Module) -> tuple[Parameter, ...]:
    """Return the adapted parameters of a module, in the module's order."""
    if not names:
        return ()
    return tuple(parameter for parameter in module.parameters if is_named(f"{path}.{parameter.name}", names))


def is_transposed(model_type: str) -> bool:
    """Return whether experts' weights are (experts, in, out).

    Source: transformers, `use_experts_implementation(is_transposed)`.
    """
    return model_type == "gpt_oss"


def updates(method: AdapterSettings, name: str, module: Module, dtype: DType, *, transposed: bool) -> tuple[Added, ...]:
    """Return A and B of every adapted parameter of a module, for all experts.

    `name` is the module's name in its first layer.
    """
    added: list[Added] = []
    for parameter in targeted(method.target_parameters, name, module):
        *among, rows, columns = parameter.shape
        into, out = (rows, columns) if transposed and among else (columns, rows)
        r = named(method.rank_of(f"{name}.{parameter.name}"), "r")
        r = among[0] * r if among else r
        added.append(Added(name=f"{parameter.name}{_A}", shape=(r, into), dtype=dtype))
        added.append(Added(name=f"{parameter.name}{_B}", shape=(out, r), dtype=dtype))
    return tuple(added)


def wrapped_name(names: tuple[str, ...] | None, name: str) -> str:
    """Return PEFT's name of a parameter of an update of experts' weights. Other names are returned unchanged."""
    owner, dot, last = name.rpartition(".lora_")
    module, _, parameter = owner.rpartition(".")
    if not dot or not is_named(owner, names or ()):
        return name
    is_inner = parameter == _INNER and is_named(f"{module}.{_OUTER}", names or ())
    return f"{module}{'.base_layer' if is_inner else ''}{dot}{last}"


class ExpertWeights:
    """The weights of running experts, each with its update. An update is computed once in a call."""

    __slots__ = ("_cached", "_factors", "_own")

    def __init__(self, method: AdapterSettings, path: str, bound: BoundModule, *, transposed: bool) -> None:
        self._own = bound.own
        self._cached: dict[str, Tensor] = {}
        self._factors: dict[str, tuple[Tensor, Tensor, bool]] = {}
        adapted = [name.removesuffix(_A) for name in bound.added if name.endswith(_A)]
        for name in reversed(adapted):  # the parameter that is wrapped last is the outermost
            left, right = _factors(bound, name, transposed=transposed)
            self._factors[name] = left, right, method.is_scaled(f"{path}.{name}")
            _folded(self._own[name], self._factors[name], name)

    def get(self, name: str) -> Tensor | None:
        """Return a parameter with its update, or the module's own.

        Return None if the module has none with that name.
        """
        if name not in self._factors:
            return self._own.get(name)
        if name not in self._cached:
            self._cached[name] = _folded(self._own[name], self._factors[name], name)
        return self._cached[name]

    def __getitem__(self, name: str) -> Tensor:
        """Return a parameter that the module has, with its update."""
        return self.get(name) or self._own[name]


class FoldedMatrix:
    """The weight of a running router, with its update (ParamWrapper._activate_lora with one matrix).

    B·A is scaled and cast first. The sum is computed when it is registered, and once in a call.
    """

    __slots__ = ("_cached", "_own", "_update")

    def __init__(self, bound: BoundModule) -> None:
        self._own = bound.own["weight"]
        self._cached: Tensor | None = None
        a, b = bound.added[f"weight{_A}"], bound.added[f"weight{_B}"]
        scaled = ops.scale(products.bmm(b, a, self._own.shape, "B·A"), "update, scaled")
        self._update = ops.cast(scaled, self._own.dtype, "update in the weight's dtype")
        ops.add(self._own, self._update, "weight with its update")

    def get(self, name: str) -> Tensor | None:
        """Return the weight. A router has no other parameter."""
        return self[name] if name == "weight" else None

    def __getitem__(self, name: str) -> Tensor:
        """Return the weight with its update."""
        self._cached = self._cached or ops.add(self._own, self._update, f"{name} with its update")
        return self._cached


def _factors(bound: BoundModule, name: str, *, transposed: bool) -> tuple[Tensor, Tensor]:
    """Return both factors of every expert's update, cast to the weight's dtype.

    They are (experts, rows, r) and (experts, r, columns). B is stored as (out, r · experts) and permuted. A is permuted
    too if the weight is (experts, in, out).
    """
    a, b, weight = bound.added[f"{name}{_A}"], bound.added[f"{name}{_B}"], bound.own[name]
    among, rows, columns = weight.shape
    r = a.shape[0] // among
    if transposed:
        left, right = ops.permute(a, (among, rows, r)), ops.permute(b, (among, r, columns))
    else:
        left, right = ops.permute(b, (among, rows, r)), ops.view(a, (among, r, columns))
    cast = f"{name}: factor in the weight's dtype"
    return ops.cast(left, weight.dtype, cast), ops.cast(right, weight.dtype, cast)


def _folded(weight: Tensor, factors: tuple[Tensor, Tensor, bool], name: str) -> Tensor:
    """Return torch.baddbmm(W, B, A, alpha=scaling), which saves the factors."""
    left, right, scaled = factors
    node = Node(left.tape, _folded_back, (left.edge, right.edge), scaled) if left.edge or right.edge else None
    if node is not None:
        node.save(left)
        node.save(right)
    return left.tape.new(weight.shape, weight.dtype, f"{name} with its update", node)


@saves_factors(1, 0)
def _folded_back(node: Node, grad: Tensor) -> list[Tensor | None]:
    return [_factor_gradient(node, edge[2], grad) if edge else None for edge in node.edges]


def _factor_gradient(node: Node, shape: Shape, grad: Tensor) -> Tensor:
    product = grad.tape.new(shape, grad.dtype, "update: gradient of a factor")
    return ops.scale(product, "update: gradient of a factor, scaled") if node.context else product
