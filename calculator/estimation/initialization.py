"""The peak of adding an adapter to a model on the GPU, where its initialisation reads the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from calculator.architecture.dimension import elements
from calculator.common.dtype import ITEMSIZE, allocated
from calculator.estimation.answer import Row
from calculator.methods.low_rank.initial_memory import OF_WEIGHTS, SOURCE, Temporaries, Weight
from calculator.methods.low_rank.method import LowRank
from calculator.resident.quantization import Quantization

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from calculator.architecture.module import Module
    from calculator.common.dtype import DType
    from calculator.methods.costs import Allocated
    from calculator.methods.prepared_model import PreparedModel
    from calculator.resident.module_spec import ModuleSpec
    from calculator.training_step.resident_state import ResidentState


class InitialPeak(NamedTuple):
    """What is alive at a moment of adding an adapter, as rows, and what runs then."""

    rows: tuple[Row, ...]
    operation: str

    @property
    def bytes(self) -> int:
        """All of it."""
        return sum(row.bytes for row in self.rows)


def initialization_peak(resident: ResidentState) -> InitialPeak | None:
    """What is alive at the peak of PEFT's get_peft_model; None where it is not modelled, or reads no weights.

    The adapters of modules before are in the dtype of their weights. PEFT casts all of them at the end, one by one.
    """
    decompose, moments = _decomposition(resident.prepared), []
    if decompose is None:
        return None
    base = sum(tensor.bytes for tensor in resident.whole if tensor.base)
    base += sum(_cast_in_first_run(module, spec) for _, module, spec in resident.prepared.modules)
    made, cast = 0, 0
    for path, module, spec in _initialized(resident.prepared):
        on = Temporaries()
        decompose(on, _weight(module, spec))
        moments.append((made + on.peak_bytes, made, path, on.peak))
        for each in spec.added:
            size = allocated(elements(each.shape), ITEMSIZE[_dtype(spec)])
            made, cast = made + size, size if each.dtype != _dtype(spec) else 0
    if not moments:
        return None
    _, before, path, peak = max(moments, key=lambda moment: moment[0])
    rows = [_row("weights", base), _row("adapters of the modules before", before), *map(_of_tensor, peak)]
    found = InitialPeak(rows=_present(rows), operation=f"get_peft_model: {path}")
    whole = sum(tensor.bytes for tensor in resident.whole)
    last = [_row("weights and adapters", whole), _row("adapter before it is cast", cast)]
    return max(found, InitialPeak(rows=_present(last), operation="cast_adapter_dtype"), key=lambda each: each.bytes)


def replaced_on_host(resident: ResidentState) -> int:
    """The bytes of host memory that the same takes there: the weights that are replaced so far, and temporary tensors.

    LAPACK's workspaces are not counted.
    """
    decompose, replaced, most = _decomposition(resident.prepared), 0, 0
    if decompose is None:
        return 0
    replaces = getattr(resident.prepared.method, "init_lora_weights", "") != "mica"
    for _, module, spec in _initialized(resident.prepared):
        on = Temporaries()
        decompose(on, _weight(module, spec))
        most = max(most, replaced + on.peak_bytes)
        replaced += elements(module.weight.shape) * ITEMSIZE[spec.dtype] if replaces else 0
    return max(most, replaced)


def _decomposition(prepared: PreparedModel) -> Callable[[Temporaries, Weight], None] | None:
    method = prepared.method
    kind = method.init_lora_weights if isinstance(method, LowRank) else None
    return OF_WEIGHTS.get(kind) if isinstance(kind, str) else None


def _initialized(prepared: PreparedModel) -> Iterator[tuple[str, Module, ModuleSpec]]:
    """Every linear layer with an update, over a dense weight or one in bitsandbytes' 4 bits."""
    for path, module, spec in prepared.modules:
        dense = spec.quantization is None or isinstance(spec.quantization, Quantization)
        if dense and any(each.name == "lora_A.weight" for each in spec.added):
            yield path, module, spec


def _weight(module: Module, spec: ModuleSpec) -> Weight:
    return Weight(
        rows=int(module.out_features),
        columns=int(module.in_features),
        rank=int(spec.added[0].shape[0]),
        dtype=_dtype(spec),
        is_stored=spec.quantization is not None,
    )


def _cast_in_first_run(module: Module, spec: ModuleSpec) -> int:
    """What the bias of a layer in 4 bits takes more before its first run casts it."""
    if module.bias is None or spec.quantization is None:
        return 0
    count = elements(module.bias.shape)
    return allocated(count, ITEMSIZE[spec.dtype]) - allocated(count, ITEMSIZE[spec.dtype_of(module.bias)])


def _dtype(spec: ModuleSpec) -> DType:
    """The dtype of a weight, or that which one in 4 bits is dequantised to."""
    return spec.quantization.compute_dtype if isinstance(spec.quantization, Quantization) else spec.dtype


def _present(rows: list[Row]) -> tuple[Row, ...]:
    return tuple(sorted((row for row in rows if row.bytes), key=lambda row: -row.bytes))


def _row(name: str, size: int) -> Row:
    return Row.of(name=name, count=1, bytes=size, shape=None, dtype="", source=SOURCE)


def _of_tensor(tensor: Allocated) -> Row:
    name, shape, dtype = tensor
    size = allocated(elements(shape), ITEMSIZE[dtype])
    return Row.of(name=name, count=1, bytes=size, shape=shape, dtype=dtype, source=SOURCE)


def warnings(resident: ResidentState, peak: int) -> tuple[str, ...]:
    """Where adding the adapter takes more of a GPU than a step's peak."""
    whole = resident.prepared.device.sharding in ("none", "ddp")
    found = initialization_peak(resident) if whole else None
    if found is None or found.bytes <= peak:
        return ()
    sentence = (
        f"Adding the adapter to a model that is on the GPU takes {found.bytes / 2**30:.2f} GiB at its peak, more than a"
        f" step ({peak / 2**30:.2f} GiB), without cuSOLVER's workspaces."
    )
    return (sentence,)
