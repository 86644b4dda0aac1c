"""Optimizers by their Hugging Face names: their states and the temporaries of a step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Literal, get_args

from calculator.architecture.dimension import Shape, elements
from calculator.common.dtype import DType
from calculator.common.names import OptimizerName

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


_TORCH = "torch/optim"
_BITSANDBYTES = "bitsandbytes/optim/optimizer.py"

#: Parameters of fewer elements keep 32-bit states. Source: bitsandbytes/optim/optimizer.py, min_8bit_size.
SMALLEST_8BIT = 4096
#: Elements that share one block constant. Source: bitsandbytes/optim/optimizer.py, init_state.
BLOCKSIZE_8BIT = 256
#: States with at least this many elements are in managed memory.
#: Source: bitsandbytes/optim/optimizer.py, get_state_buffer.
SMALLEST_PAGED = 100_000

State = tuple[str, Shape, DType]


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimizer:
    """The states that an optimizer has for each parameter, and what a step allocates."""

    name: OptimizerName
    #: The names of its full-size states.
    names: tuple[str, ...]
    #: States in the parameter's dtype, in float32, in blocks of 8 bits, or factored into rows and columns (Adafactor).
    storage: Literal["parameter", "float32", "8bit", "factored"]
    source: str
    paged: bool = False
    #: How many copies of a whole dtype group a foreach step allocates.
    temporaries: int = 0
    step_on_device: bool = False
    #: Whether the states are created with the optimizer, not at its first step.
    early: bool = False

    @property
    def is_like_parameters(self) -> bool:
        """Whether all states have the shape and dtype of their parameter in the step."""
        return self.storage == "parameter" and not self.step_on_device and not self.early

    @property
    def in_32_bits(self) -> Optimizer:
        """The optimizer with 32-bit states, as bitsandbytes' GlobalOptimManager overrides 8-bit ones."""
        return replace(self, storage="float32") if self.storage == "8bit" else self

    def states(self, shape: Shape, dtype: DType) -> list[State]:
        """The states of one parameter that the caching allocator serves."""
        step: list[State] = [("step", (), "float32")] if self.step_on_device else []
        if self.storage == "factored":
            return [*_factored(shape), *step]
        if self.storage == "8bit" and elements(shape) >= SMALLEST_8BIT:
            return [*self._in_blocks(shape), *step]
        if self._is_paged(shape):
            return step
        stored: DType = dtype if self.storage == "parameter" else "float32"
        return [(name, shape, stored) for name in self.names] + step

    def shared_states(self, shapes: Iterable[Shape]) -> Iterator[State]:
        """The states that all parameters share: code books of 8-bit states."""
        if self.storage == "8bit" and any(elements(shape) >= SMALLEST_8BIT for shape in shapes):
            yield from ((f"qmap of {name}", (256,), "float32") for name in self.names)

    def _in_blocks(self, shape: Shape) -> Iterator[State]:
        blocks = ceil(elements(shape) / BLOCKSIZE_8BIT)
        for name in self.names:
            if not self._is_paged(shape):
                yield name, shape, "uint8"
            yield f"absmax of {name}", (blocks,), "float32"

    def _is_paged(self, shape: Shape) -> bool:
        return self.paged and elements(shape) >= SMALLEST_PAGED


def _factored(shape: Shape) -> Iterator[State]:
    """Adafactor's second moment (Shazeer & Stern 2018): a row and a column for a matrix, full size for a vector.

    The parameter's root mean square is a state too. Source: transformers/optimization.py, Adafactor.step.
    """
    yield "RMS", (), "float32"
    if len(shape) < 2:
        yield "exp_avg_sq", shape, "float32"
    else:
        yield "exp_avg_sq_row", shape[:-1], "float32"
        yield "exp_avg_sq_col", (*shape[:-2], shape[-1]), "float32"


_ADAM = ("exp_avg", "exp_avg_sq")
_BNB = ("state1", "state2")

OPTIMIZERS: dict[str, Optimizer] = {
    optimizer.name: optimizer
    for optimizer in (
        Optimizer(name="adamw_torch", names=_ADAM, storage="parameter", temporaries=1, source=f"{_TORCH}/adam.py"),
        Optimizer(
            name="adamw_torch_fused", names=_ADAM, storage="parameter", step_on_device=True, source=f"{_TORCH}/adam.py"
        ),
        Optimizer(name="adamw_8bit", names=_BNB, storage="8bit", source=_BITSANDBYTES),
        Optimizer(name="adamw_bnb_8bit", names=_BNB, storage="8bit", source=_BITSANDBYTES),
        Optimizer(name="paged_adamw_8bit", names=_BNB, storage="8bit", paged=True, source=_BITSANDBYTES),
        Optimizer(name="paged_adamw_32bit", names=_BNB, storage="float32", paged=True, source=_BITSANDBYTES),
        Optimizer(name="sgd", names=(), storage="parameter", source=f"{_TORCH}/sgd.py"),
        Optimizer(name="adafactor", names=(), storage="factored", source="transformers/optimization.py, Adafactor"),
        Optimizer(name="lion_8bit", names=_BNB[:1], storage="8bit", source=_BITSANDBYTES),
        Optimizer(name="paged_lion_8bit", names=_BNB[:1], storage="8bit", paged=True, source=_BITSANDBYTES),
        Optimizer(name="lion_32bit", names=_BNB[:1], storage="float32", source=_BITSANDBYTES),
        Optimizer(name="paged_lion_32bit", names=_BNB[:1], storage="float32", paged=True, source=_BITSANDBYTES),
        Optimizer(
            name="adagrad",
            names=("sum",),
            storage="parameter",
            temporaries=2,
            early=True,
            source=f"{_TORCH}/adagrad.py",
        ),
        Optimizer(
            name="rmsprop", names=("square_avg",), storage="parameter", temporaries=1, source=f"{_TORCH}/rmsprop.py"
        ),
    )
}

if set(OPTIMIZERS) != set(get_args(OptimizerName)):
    raise AssertionError("every optimizer that a request may name has its entry")
