"""BD-LoRA, in which A or B of each target is block-diagonal (peft.tuners.lora.variants.BdLoraLinearVariant)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from calculator.architecture.dimension import Dim, named
from calculator.common.errors import Problem
from calculator.engine import operations as ops
from calculator.engine import products
from calculator.inputs.settings import setting
from calculator.resident.module_spec import Added

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from calculator.architecture.dimension import Shape
    from calculator.architecture.module import Module
    from calculator.common.dtype import DType
    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule
    from calculator.methods.targeted.method import TargetedMethod

    #: Returns the rank of a module's update, from its path.
    Rank = Callable[[str, Module], int]

#: Initializations that keep the shapes of A and B.
_KEEPING_SHAPES = (True, False, "gaussian")


@dataclass(frozen=True, slots=True, kw_only=True)
class BdLoraConfig:
    """The settings of `peft.BdLoraConfig`."""

    target_modules_bd_a: tuple[str, ...] | None = setting(
        None,
        label="Block-diagonal A",
        help="Parts of the names of the modules whose A is block-diagonal, as in BD-LoRA.",
        example=("o_proj", "down_proj"),
    )
    target_modules_bd_b: tuple[str, ...] | None = setting(
        None,
        label="Block-diagonal B",
        help="Parts of the names of the modules whose B is block-diagonal, as in BD-LoRA.",
        example=("q_proj", "up_proj"),
    )
    nblocks: int = setting(
        1, label="Blocks of BD-LoRA", help="The blocks of each block-diagonal matrix.", minimum=1, maximum=65_536
    )
    match_strict: bool = setting(
        True,
        label="BD-LoRA in all targets",
        help="Refuse targets whose A and B are both whole, as PEFT does.",
    )

    def side(self, path: str) -> Literal["A", "B"] | None:
        """Return which matrix of a module is block-diagonal, by the module's own name."""
        name = path.rpartition(".")[2]
        for side, parts in (("A", self.target_modules_bd_a), ("B", self.target_modules_bd_b)):
            if any(part in name for part in parts or ()):
                return "A" if side == "A" else "B"
        return None


def added(
    config: BdLoraConfig, path: str, module: Module, r: Dim, dtype: DType, *, trains_a: bool, has_bias: bool
) -> tuple[Added, ...]:
    """Return A and B. Only their blocks are stored: (out_features, in_features / nblocks). A whole B has a bias."""
    side = config.side(path)
    into, among = module.in_features, r
    if side == "A":
        into = named(int(module.in_features) // config.nblocks, "in_features/nblocks")
    if side == "B":
        among = named(int(r) // config.nblocks, "r/nblocks")
    bias = Added(name="lora_B.bias", shape=(module.out_features,), dtype=dtype)
    return (
        Added(name="lora_A.weight", shape=(r, into), dtype=dtype, trained=trains_a),
        Added(name="lora_B.weight", shape=(module.out_features, among), dtype=dtype),
        *((bias,) if has_bias and side != "B" else ()),
    )


def update(config: BdLoraConfig, bound: BoundModule, x: Tensor) -> Tensor:
    """Return B(A(x)) before it is scaled: (..., in_features) to (..., out_features)."""
    side = config.side(bound.name)
    for letter, factor in (("A", bound.added["lora_A.weight"]), ("B", bound.added["lora_B.weight"])):
        product = f"{letter} of the update"
        if letter == side:
            x = _by_blocks(x, factor, config.nblocks, product)
        else:
            bias = bound.added.get("lora_B.bias") if letter == "B" else None
            x = products.matmul(x, factor, bias, factor.shape[0], product)
    return x


def _by_blocks(x: Tensor, weight: Tensor, blocks: int, name: str) -> Tensor:
    """Run BlockDiagonalLinear.forward.

    Its torch.einsum over blocks is one torch.bmm, whose result and gradients are copied. The copy puts the blocks of a
    row next to each other. With a single row or column in each block, it is a view.
    """
    rows = _rows(x.shape)
    m, n = weight.shape[1], weight.shape[0] // blocks
    left = _transposed(x, (blocks, rows, m), copies=blocks > 1 and m > 1)
    right = _transposed(weight, (blocks, m, n), copies=m > 1 and n > 1)
    out = products.bmm(left, right, (blocks, rows, n), f"{name}, by blocks")
    del left, right
    if blocks > 1 and n > 1 and rows > 1:
        out = ops.contiguous(out, name)
    return ops.view(out, (*x.shape[:-1], weight.shape[0]))


def _transposed(x: Tensor, shape: Shape, *, copies: bool) -> Tensor:
    return ops.permute(x, shape) if copies else ops.view(x, shape)


def _rows(shape: Shape) -> int:
    rows = shape[0]
    for size in shape[1:-1]:
        rows = rows * size
    return rows


def problems(
    method: TargetedMethod, config: BdLoraConfig | None, targets: Mapping[str, Module], rank: Rank
) -> Iterator[Problem]:
    """Yield settings that PEFT refuses, or runs incorrectly, with block-diagonal matrices."""
    if config is None:
        return
    if method.quantizes_base:
        message = "PEFT ignores it over a quantized base: leave it out"
        yield Problem(loc="method.use_bdlora", msg=message, input=config.nblocks)
        return
    yield from _settings(method, targets)
    in_both_lists = sorted({*(config.target_modules_bd_a or ())} & {*(config.target_modules_bd_b or ())})
    if in_both_lists:
        message = f"{', '.join(in_both_lists)} is in target_modules_bd_b too: leave it out of one"
        yield Problem(loc="method.use_bdlora.target_modules_bd_a", msg=message, input=in_both_lists)
        return
    for path, module in targets.items():
        yield from _module(config, path, module, rank)


def _settings(method: TargetedMethod, targets: Mapping[str, Module]) -> Iterator[Problem]:
    """Yield modules and settings of LoRA for which PEFT has no block-diagonal matrices."""
    if any(module.kind == "embedding" for module in targets.values()):
        message = "PEFT has no block-diagonal LoRA of an embedding: leave the embedding out"
        yield Problem(loc="method.target_modules", msg=message, input=None)
    for name, usual in (("use_dora", "false"), ("target_parameters", "null")):
        value = getattr(method, name)
        if value:
            yield Problem(loc=f"method.{name}", msg=f"PEFT has none with use_bdlora: use {usual}", input=value)
    kind = getattr(method, "init_lora_weights")  # noqa: B009  a setting of LoRA alone
    if kind not in _KEEPING_SHAPES:
        message = "gives A and B the shapes of whole matrices: use true or gaussian with use_bdlora"
        yield Problem(loc="method.init_lora_weights", msg=message, input=kind)


def _module(config: BdLoraConfig, path: str, module: Module, rank: Rank) -> Iterator[Problem]:
    """Yield a target that both lists or neither list match, and sizes that the number of blocks does not divide."""
    name = path.rpartition(".")[2]
    in_a, in_b = (
        any(part in name for part in parts or ()) for parts in (config.target_modules_bd_a, config.target_modules_bd_b)
    )
    if in_a and in_b:
        message = f"{path} matches target_modules_bd_b too: use longer parts of names"
        yield Problem(loc="method.use_bdlora.target_modules_bd_a", msg=message, input=name)
    elif not in_a and not in_b and config.match_strict:
        message = f"{path} matches neither list: name it in target_modules_bd_a or _b, or set match_strict false"
        yield Problem(loc="method.use_bdlora.match_strict", msg=message, input=True)
    elif (in_a or in_b) and module.kind == "conv1d":
        message = f"PEFT fails on {path}, a Conv1D: leave it out of the lists, with match_strict false"
        yield Problem(loc="method.use_bdlora", msg=message, input=name)
    elif in_a or in_b:
        r, side = rank(path, module), module.in_features if in_a else module.out_features
        if r % config.nblocks or side % config.nblocks:
            message = f"does not divide both the rank {r:,} and {side:,} of {path}: use a common divisor"
            yield Problem(loc="method.use_bdlora.nblocks", msg=message, input=config.nblocks)
