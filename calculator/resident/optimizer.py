"""An optimizer: its states of a parameter, and the temporaries of its step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Literal

from calculator.architecture.dimension import Shape, elements
from calculator.common.dtype import DType
from calculator.resident import torchao

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from calculator.common.names import OptimizerName
    from calculator.resident.projection import Projection

#: Parameters with fewer elements keep 32-bit states. Source: bitsandbytes/optim/optimizer.py, min_8bit_size.
SMALLEST_8BIT = 4096
#: The number of elements that share one block constant. Source: bitsandbytes/optim/optimizer.py, init_state.
BLOCKSIZE_8BIT = 256
#: Paged states with at least this many elements are in managed memory. Source: bitsandbytes/optim/optimizer.py,
#: get_state_buffer.
SMALLEST_PAGED = 100_000

#: The storage format of the states.
Storage = Literal["parameter", "float32", "8bit", "factored", "adalomo", "torchao_8bit", "torchao_4bit", "host"]

#: A state's name, shape and dtype.
State = tuple[str, Shape, DType]


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimizer:
    """The states that an optimizer keeps for each parameter, and the temporaries of a step."""

    name: OptimizerName
    #: The names of its full-size states.
    names: tuple[str, ...]
    #: Storage of the states: in the parameter's dtype, in float32, in blocks of 8 bits, factored into rows and columns
    #: (Adafactor, AdaLOMO), in torchao's blocks of 8 or 4 bits, or in host memory in the parameter's dtype.
    storage: Storage
    source: str
    #: The PyPI package that contains it. None if every run needs the package anyway.
    package: str = ""
    paged: bool = False
    #: The number of copies of a whole dtype group that a foreach step allocates.
    temporaries: int = 0
    step_on_device: bool = False
    #: Whether the states are created with the optimizer, not at its first step.
    early: bool = False
    #: Whether the temporaries of a parameter group stay alive until those of the next group exist.
    keeps_temporaries: bool = False
    #: Further states of each parameter: their names and dtypes. "parameter" stands for the parameter's dtype.
    scalars: tuple[tuple[str, DType | Literal["parameter"]], ...] = ()
    #: The further full-size state of half-precision parameters, and the scalar that float32 parameters have instead.
    in_half: tuple[str, ...] = ()
    in_full: tuple[tuple[str, DType], ...] = ()
    #: The scalars of each parameter group that a Trainer and its learning rate scheduler keep on the device.
    group_tensors: tuple[str, ...] = ()
    #: The sentence on the optimizer in the answer's assumptions.
    assumptions: tuple[str, ...] = ()
    #: Whether it updates each parameter in the backward pass and frees its gradient.
    in_backward: bool = False
    #: Whether there is an optimizer for each parameter, all created when the training begins.
    layerwise: bool = False
    #: Whether frozen parameters have states too.
    for_frozen: bool = False
    #: Whether it is only modeled on one GPU. It is modeled under DDP too unless `refuses_ddp` says why not, and under
    #: other shardings if `updates_shards` says so.
    on_one_gpu: bool = False
    #: Whether the reference step is modeled under FSDP2 and ZeRO too, without offload.
    updates_shards: bool = False
    #: Why it does not run under DDP. Empty if it does, with the same states on every rank.
    refuses_ddp: str = ""
    #: Why it does not run on FSDP2's shards, or what it does there. Empty if it is modeled, or if that is not known.
    refuses_fsdp: str = ""
    #: Why it does not run on ZeRO's flat partitions. Empty if it does, or if that is not known.
    refuses_zero: str = ""
    #: Whether `TrainingArguments.optim` has it.
    optim_has_it: bool = True
    #: The optimizer of parameters that it does not update itself. None if it updates all.
    others: Optimizer | None = None
    #: The names of the parameters that it updates itself. Only read if another optimizer updates the rest.
    targets: frozenset[str] = frozenset()
    #: Whether it projects the gradients of these, onto singular vectors or randomly.
    projects: Literal["", "svd", "random"] = ""
    #: The projection, as a run sets it. None for an optimizer without projection.
    projection: Projection | None = None

    @property
    def is_like_parameters(self) -> bool:
        """Whether all states have the shape and dtype of their parameter in the step."""
        plain = not (self.step_on_device or self.early or self.scalars or self.in_half or self.others)
        plain = plain and not self.for_frozen
        return self.storage == "parameter" and plain

    @property
    def in_32_bits(self) -> Optimizer:
        """The optimizer with 32-bit states. bitsandbytes' GlobalOptimManager overrides 8-bit states like this."""
        return replace(self, storage="float32") if self.storage == "8bit" else self

    def for_parameter(self, name: str) -> Optimizer:
        """Return the optimizer that updates a parameter."""
        return self if self.others is None or name in self.targets else self.others

    def projection_of(self, name: str) -> Projection | None:
        """Return the projection of a parameter's gradient, or None."""
        return self.projection if name in self.targets else None

    def shape_of_states(self, name: str, shape: Shape) -> Shape:
        """Return the shape of a parameter's states: the parameter's own, or that of its projected gradient."""
        projection = self.projection_of(name)
        return shape if projection is None else projection.projected(shape)

    def states(self, shape: Shape, dtype: DType) -> list[State]:
        """Return the states of one parameter that the caching allocator serves."""
        if self.storage == "host":
            return []
        if self.storage == "adalomo":
            return [*_rows_and_columns(shape)]
        step: list[State] = [("step", (), "float32")] if self.step_on_device else []
        if self.projection is not None:
            return self._projected(self.projection, shape, dtype)
        scalars = (*self.scalars, *(self.in_full if dtype == "float32" else ()))
        step += [(name, (), dtype if kind == "parameter" else kind) for name, kind in scalars]
        if self.storage == "factored":
            return [*_factored(shape), *step]
        if self.storage in ("torchao_8bit", "torchao_4bit"):
            return [*torchao.states(self.names, shape, dtype, bits=8 if self.storage == "torchao_8bit" else 4)]
        if self.storage == "8bit" and elements(shape) >= SMALLEST_8BIT:
            return [*self._in_blocks(shape), *step]
        if self._is_paged(shape):
            return step
        stored: DType = dtype if self.storage == "parameter" else "float32"
        names = self.names if dtype == "float32" else (*self.names, *self.in_half)
        return [(name, shape, stored) for name in names] + step

    def _projected(self, projection: Projection, shape: Shape, dtype: DType) -> list[State]:
        """Return the projection, and the states of the projected gradient. Adafactor's gradients are in float32."""
        gradient_dtype = "float32" if self.storage == "factored" else dtype
        kept: State = ("projector", projection.kept(shape, gradient_dtype), gradient_dtype)
        return [kept, *replace(self, projection=None).states(projection.projected(shape), dtype)]

    def shared_states(self, shapes: Iterable[Shape]) -> Iterator[State]:
        """Yield the states that all parameters share, which are code books of 8-bit states."""
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
    """Yield Adafactor's second moment (Shazeer & Stern 2018).

    It has a row and a column for a matrix, and full size for a vector. The parameter's root mean square is a state too.
    Source: transformers/optimization.py, Adafactor.step.
    """
    yield "RMS", (), "float32"
    if len(shape) < 2:
        yield "exp_avg_sq", shape, "float32"
    else:
        yield "exp_avg_sq_row", shape[:-1], "float32"
        yield "exp_avg_sq_col", (*shape[:-2], shape[-1]), "float32"


def _rows_and_columns(shape: Shape) -> Iterator[State]:
    """Yield AdaLOMO's second moment: the first two dimensions of a matrix, or a vector.

    Source: lomo_optim/adalomo.py.
    """
    if len(shape) < 2:
        yield "exp_avg_sq", shape, "float32"
    else:
        yield "exp_avg_sq_row", shape[:1], "float32"
        yield "exp_avg_sq_col", shape[1:2], "float32"
