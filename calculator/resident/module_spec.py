"""The parameters of one module, as a method stores and trains them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, get_args

from calculator.common.constructor import constructor

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.architecture.module import Parameter
    from calculator.common.dtype import DType
    from calculator.resident.stored_weight import StoredWeight

#: PEFT's name of a trained copy, inside the module that replaces the original.
CopyName = Literal["modules_to_save", "ln_tuning_layers"]

_COPIES = frozenset(get_args(CopyName))


@dataclass(slots=True, kw_only=True, eq=False)
class Added:
    """A parameter or buffer that a method adds to a module. Its name is relative to the module."""

    name: str
    shape: Shape
    dtype: DType
    trained: bool = True
    #: Whether it is a buffer, which does not count as a parameter.
    buffer: bool = False
    #: The shape of the buffer, if it is a view of a larger storage, whose shape is `shape`.
    view: Shape | None = None
    #: Whether PEFT makes the buffer on the host. It stays there unless a trainer or a sharding moves the model.
    made_on_host: bool = False
    #: The shape of the storage that its gradient is a view of. None if its gradient has its own.
    gradient_base: Shape | None = None

    def cast(self, dtype: DType) -> Added:
        """Return the parameter in another dtype. A buffer keeps its dtype.

        dataclasses.replace takes several times as long.

        Source: deepspeed/runtime/engine.py, _cast_module_mixed_precision, which keeps the dtypes of buffers.
        """
        if self.buffer:
            return self
        return new_added(
            name=self.name,
            shape=self.shape,
            dtype=dtype,
            trained=self.trained,
            gradient_base=self.gradient_base,
        )


@dataclass(slots=True, kw_only=True, eq=False)
class ModuleSpec:
    """The parameters of one module, as a method stores and trains them."""

    #: The dtype of its dense parameters.
    dtype: DType
    #: The names of its own parameters that are trained.
    trained: tuple[str, ...] = ()
    #: The format of its weight, if it is not dense.
    quantization: StoredWeight | None = None
    #: The parameters that the method adds to it.
    added: tuple[Added, ...] = ()
    #: Whether the code of a low-rank update refers to A(x) until the update is scaled.
    keeps_after_a: bool = False
    #: The name of its trained copy, which replaces it. The frozen original stays in memory.
    copied: CopyName | None = None
    #: The dtype that the trained copy is cast to. None if it has that of the original.
    copy_dtype: DType | None = None
    #: Whether the original of a trained copy is in a file, and only the copy in memory.
    original_in_file: bool = False
    #: Whether it runs in the step.
    runs: bool = True
    #: The dtype that every parameter is cast to after the method is applied. None if each keeps its own.
    cast_to: DType | None = None

    def cast(self, dtype: DType, added: tuple[Added, ...]) -> ModuleSpec:
        """Return the spec whose parameters are cast to a dtype, with other added parameters."""
        return new_module_spec(
            dtype=dtype,
            trained=self.trained,
            quantization=self.quantization,
            added=added,
            keeps_after_a=self.keeps_after_a,
            copied=self.copied,
            original_in_file=self.original_in_file,
            runs=self.runs,
            cast_to=dtype,
        )

    def stored_as(self, quantization: StoredWeight | None, *, keeps_after_a: bool) -> ModuleSpec:
        """Return the spec with another format of the weight, and with another use of A(x).

        dataclasses.replace takes several times as long.
        """
        return new_module_spec(
            dtype=self.dtype,
            trained=self.trained,
            quantization=quantization,
            added=self.added,
            keeps_after_a=keeps_after_a,
            copied=self.copied,
            copy_dtype=self.copy_dtype,
            original_in_file=self.original_in_file,
            runs=self.runs,
            cast_to=self.cast_to,
        )

    def without_added(self) -> ModuleSpec:
        """Return the spec of the original module, without parameters that a method adds. A trained copy is left out.

        dataclasses.replace takes several times as long.
        """
        return new_module_spec(
            dtype=self.dtype,
            trained=() if self.copied else self.trained,
            quantization=self.quantization,
            keeps_after_a=self.keeps_after_a,
            copy_dtype=self.copy_dtype,
            original_in_file=self.original_in_file,
            runs=self.runs,
            cast_to=self.cast_to,
        )

    def dtype_of(self, parameter: Parameter) -> DType:
        """Return a parameter's dtype: its own if it has one, else the model's.

        If the weight is stored in another format, it is the dtype of the bias.
        """
        if parameter.name == "bias" and self.quantization is not None and self.runs:
            return self.quantization.bias_dtype
        if self.cast_to is not None:
            return self.cast_to
        return self.dtype if parameter.dtype == "model" else parameter.dtype

    def trained_dtype_of(self, parameter: Parameter) -> DType:
        """Return a parameter's dtype in the module that runs, which is the trained copy if there is one."""
        return self.copy_dtype if self.copied and self.copy_dtype is not None else self.dtype_of(parameter)


#: Faster constructors, for the dozens of instances of a first estimate.
new_added = constructor(Added)
new_module_spec = constructor(ModuleSpec)


@lru_cache(maxsize=4096)
def owner_of(name: str) -> str:
    """Return the path of the module that owns a parameter. For a parameter of a copy, it is the original."""
    owner = name.rpartition(".")[0]
    return owner.rpartition(".")[0] if is_of_copy(name) else owner


def is_of_copy(name: str) -> bool:
    """Return whether a parameter belongs to a trained copy, by its name."""
    parts = name.rsplit(".", 2)
    return len(parts) > 1 and parts[-2] in _COPIES
