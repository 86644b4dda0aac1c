"""Fused experts that LoRA adapts as whole parameters: `target_parameters` (peft.tuners.lora.layer.ParamWrapper).

PEFT registers a parametrization of each parameter in every forward pass: W + scaling · B·A of all experts in one
tensor, which the products save for the backward pass in place of W. Registering it computes that tensor once more.
"""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.common.errors import Problem
from calculator.engine import operations as ops
from calculator.engine.autograd import Node, saves_factors
from calculator.methods.low_rank import layers
from calculator.methods.targeted.matching import is_named
from calculator.methods.targeted.refusals import names_one_layer
from calculator.resident.module_spec import Added

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.dimension import Shape
    from calculator.architecture.model import Model
    from calculator.architecture.module import Module, Parameter
    from calculator.common.dtype import DType
    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule
    from calculator.methods.low_rank.method import LowRank

_A, _B = ".lora_A.weight", ".lora_B.weight"

#: The second of the experts' weights, which PEFT wraps last.
_OUTER = "down_proj"

#: The initialisations that read no weight, which a parametrized module has under another name.
_WITHOUT_WEIGHTS = (True, False, "gaussian")


def targeted(method: LowRank, path: str, module: Module) -> tuple[Parameter, ...]:
    """The parameters of a module that are adapted, in its order."""
    names = method.target_parameters or ()
    return tuple(each for each in module.parameters if is_named(f"{path}.{each.name}", names))


def is_transposed(model_type: str) -> bool:
    """Whether experts' weights are (experts, in, out) (transformers, `use_experts_implementation(is_transposed)`)."""
    return model_type == "gpt_oss"


def updates(method: LowRank, path: str, module: Module, model: Model, own: DType) -> tuple[Added, ...]:
    """A and B of every adapted parameter of a module, for all experts."""
    found: list[Added] = []
    for parameter in targeted(method, path, module):
        among, rows, columns = parameter.shape
        into, out = (rows, columns) if is_transposed(model.model_type) else (columns, rows)
        r = among * named(layers.rank(method, f"{layers.full_name(path, module)}.{parameter.name}"), "r")
        found.append(Added(name=f"{parameter.name}{_A}", shape=(r, into), dtype=own))
        found.append(Added(name=f"{parameter.name}{_B}", shape=(out, r), dtype=own))
    return tuple(found)


def wrapped_name(method: LowRank, name: str) -> str:
    """What PEFT calls a parameter of an update of experts' weights; of other parameters, the same name."""
    owner, dot, last = name.rpartition(".lora_")
    module, _, parameter = owner.rpartition(".")
    if not dot or not is_named(owner, method.target_parameters or ()):
        return name
    is_inner = parameter != _OUTER and is_named(f"{module}.{_OUTER}", method.target_parameters or ())
    return f"{module}{'.base_layer' if is_inner else ''}{dot}{last}"


def problems(method: LowRank, model: Model) -> Iterator[Problem]:
    """What PEFT refuses of parameters (ParamWrapper.__init__), and parameters that are not modelled."""
    names = method.target_parameters
    if not names:
        return
    yield from names_one_layer("method.target_parameters", names)
    found = [(path, module, each) for path, module in model.paths for each in targeted(method, path, module)]
    fused = [(path, module, each) for path, module, each in found if module.kind == "experts" and len(each.shape) == 3]
    if not found or len(fused) < len(found) or model.model_type in _OWN_PRODUCTS:
        yield _not_fused(model, names)
    if any(method.is_saved(path) for path, _, _ in fused):
        message = "PEFT would copy experts that are adapted: leave them out of modules_to_save"
        yield Problem(loc="method.modules_to_save", msg=message, input=list(method.modules_to_save or ()))
    if method.quantizes_base:
        message = "over a quantized base is not modelled: leave it out, or use lora over a base in 16 bits"
        yield Problem(loc="method.target_parameters", msg=message, input=list(names))
    for name, refused in (("lora_dropout", 0.0), ("use_dora", False), ("lora_bias", False)):
        value = getattr(method, name)
        if value != refused:
            message = f"PEFT has none for target_parameters: use {str(refused).lower()}"
            yield Problem(loc=f"method.{name}", msg=message, input=value)
    if method.init_lora_weights not in _WITHOUT_WEIGHTS:
        message = "is not modelled with target_parameters: use true or gaussian"
        yield Problem(loc="method.init_lora_weights", msg=message, input=method.init_lora_weights)


#: Families whose experts are no grouped products.
_OWN_PRODUCTS = ("llama4_text", "llama4")


def _not_fused(model: Model, names: tuple[str, ...]) -> Problem:
    experts = [f"{path.rpartition('*.')[2]}.{each.name}" for path, module in model.paths for each in _fused(module)]
    usual = tuple(dict.fromkeys(experts)) if model.model_type not in _OWN_PRODUCTS else ()
    way_out = f"name {' or '.join(usual)}" if usual else f"leave it out for {model.model_type}, and use target_modules"
    message = f"only the weights of fused experts are modelled: {way_out}"
    return Problem(loc="method.target_parameters", msg=message, input=list(names))


def _fused(module: Module) -> Iterator[Parameter]:
    if module.kind == "experts":
        yield from (each for each in module.parameters if len(each.shape) == 3)


class Folded:
    """The weights of experts as they run, each with its update, which is computed once in a call."""

    __slots__ = ("_cached", "_factors", "_own")

    def __init__(self, method: LowRank, bound: BoundModule, *, transposed: bool) -> None:
        self._own = bound.own
        self._cached: dict[str, Tensor] = {}
        self._factors: dict[str, tuple[Tensor, Tensor, bool]] = {}
        adapted = [name.removesuffix(_A) for name in bound.added if name.endswith(_A)]
        for name in reversed(adapted):  # what is wrapped last is the outermost
            path = f"{layers.full_name(bound.name, bound.module)}.{name}"
            left, right = _factors(bound, name, transposed=transposed)
            self._factors[name] = left, right, _is_scaled(method, path)
            _folded(self._own[name], self._factors[name], name)

    def get(self, name: str) -> Tensor | None:
        """A parameter with its update, or the module's own; None if the module has none of that name."""
        if name not in self._factors:
            return self._own.get(name)
        if name not in self._cached:
            self._cached[name] = _folded(self._own[name], self._factors[name], name)
        return self._cached[name]

    def __getitem__(self, name: str) -> Tensor:
        """The same of a name that the module has."""
        return self.get(name) or self._own[name]


def _is_scaled(method: LowRank, path: str) -> bool:
    key = layers.first_match(method.alpha_pattern, path)
    alpha, r = method.lora_alpha if key is None else method.alpha_pattern[key], layers.rank(method, path)
    return alpha != (sqrt(r) if method.use_rslora else r)


def _factors(bound: BoundModule, name: str, *, transposed: bool) -> tuple[Tensor, Tensor]:
    """Both factors of every expert's update, cast to the weight's dtype: (experts, rows, r) and (experts, r, columns).

    B is stored as (out, r · experts): it is permuted, and so is A where the weight is (experts, in, out).
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
    """torch.baddbmm(W, B, A, alpha=scaling), which saves the factors."""
    left, right, scaled = factors
    node = Node(left.tape, _folded_back, (left.edge, right.edge), scaled) if left.edge or right.edge else None
    if node is not None:
        node.save(left)
        node.save(right)
    return left.tape.new(weight.shape, weight.dtype, f"{name} with its update", node)


@saves_factors(1, 0)
def _folded_back(node: Node, grad: Tensor) -> list[Tensor | None]:
    return [_of_factor(node, edge[2], grad) if edge else None for edge in node.edges]


def _of_factor(node: Node, shape: Shape, grad: Tensor) -> Tensor:
    product = grad.tape.new(shape, grad.dtype, "update: gradient of a factor")
    return ops.scale(product, "update: gradient of a factor, scaled") if node.context else product
