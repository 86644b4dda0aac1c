"""The peak of adding an adapter to a model on the GPU, if the adapter's initialization reads the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from calculator.architecture.dimension import elements
from calculator.common.dtype import ITEMSIZE, allocated
from calculator.estimation.answer import Row
from calculator.estimation.eva_passes import eva_pass
from calculator.estimation.ledger import rows
from calculator.methods.low_rank.eva import UPDATE
from calculator.methods.low_rank.eva_config import components, rho_of
from calculator.methods.low_rank.initial_memory import OF_WEIGHTS, SOURCE, Temporaries, Weight
from calculator.methods.low_rank.method import LowRank
from calculator.methods.low_rank.sampled_memory import (
    OF_SAMPLES,
    corda_eigens,
    covariance_bytes,
    cropped_bytes,
    gradient_bytes,
    offloaded_bytes,
    shared_bytes,
    singular_bytes,
)
from calculator.resident.quantization import Quantization

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.module import Module
    from calculator.common.dtype import DType
    from calculator.methods.costs import Allocated
    from calculator.methods.prepared_model import PreparedModel
    from calculator.resident.module_spec import ModuleSpec
    from calculator.training_step.resident_state import ResidentState

#: The tensors that are kept of each module until its A and B are allocated.
_KEPT = {"corda": "singular vectors of the modules after", "lora_ga": "gradients of weights"}


class InitialPeak(NamedTuple):
    """The tensors alive at a moment of adding an adapter, as rows, and the operation that runs then."""

    rows: tuple[Row, ...]
    operation: str

    @property
    def bytes(self) -> int:
        """The total bytes."""
        return sum(row.bytes for row in self.rows)


def initialization_peak(resident: ResidentState) -> InitialPeak | None:
    """Return the peak of PEFT's get_peft_model, and of the preprocessing that must run before it.

    Return None if the initialization is not modeled, or does not read weights. The adapters of earlier modules are in
    the dtype of their weights. PEFT casts all of them at the end, one by one.
    """
    kind = _kind(resident.prepared)
    if kind == "eva":
        return _eva_peak(resident)
    decompose = OF_WEIGHTS.get(kind) or (OF_SAMPLES[kind][0] if kind in OF_SAMPLES else None)
    if decompose is None:
        return None
    adapted = [*_initialized(resident.prepared)]
    if not adapted:
        return None
    base = _base(resident)
    moments = [*_preprocessing_peaks(kind, base, [_weight(module, spec) for _, module, spec in adapted])]
    kept = _kept_tensors(kind, adapted)
    adapters = uncast = 0
    for path, module, spec in adapted:
        temporaries = Temporaries()
        weight = _weight(module, spec)
        decompose(temporaries, weight)
        alive = [
            _row("weights", base),
            _row("adapters of the modules before", adapters),
            *map(_tensor_row, temporaries.peak),
        ]
        moments.append(InitialPeak((*alive, _row(_KEPT.get(kind, ""), kept)), f"get_peft_model: {path}"))
        kept -= OF_SAMPLES[kind][1](weight) if kind in OF_SAMPLES else 0
        adapters += shared_bytes(weight) if kind == "lora_ga" else 0
        for parameter in spec.added:
            size = allocated(elements(parameter.shape), ITEMSIZE[_dtype(spec)])
            adapters, uncast = adapters + size, size if parameter.dtype != _dtype(spec) else 0
    whole = sum(tensor.bytes for tensor in resident.whole)
    rows_at_end = (_row("weights and adapters", whole), _row("adapter before it is cast", uncast))
    peak = max((*moments, InitialPeak(rows_at_end, "cast_adapter_dtype")), key=lambda moment: moment.bytes)
    return InitialPeak(rows=_present(peak.rows), operation=peak.operation)


def _eva_peak(resident: ResidentState) -> InitialPeak | None:
    """Return the peak of EVA's passes of samples, if they are modeled."""
    adapted = [path for path, _, spec in resident.prepared.modules if _has_update(spec)]
    eva = eva_pass(resident.prepared, {path: place for place, path in enumerate(adapted)}) if adapted else None
    if eva is None:
        return None
    alive_rows = (row for component_rows in rows(eva.alive).values() for row in component_rows)
    resident_rows = (
        _row("weights and adapters", sum(tensor.bytes for tensor in resident.whole)),
        _row("singular vectors and values of inputs", eva.kept),
    )
    return InitialPeak(_present((*resident_rows, *map(_tensor_row, eva.batch), *alive_rows)), eva.operation)


def _base(resident: ResidentState) -> int:
    base = sum(tensor.bytes for tensor in resident.whole if tensor.base)
    return base + sum(_cast_in_first_run(module, spec) for _, module, spec in resident.prepared.modules)


def _kept_tensors(kind: str, adapted: list[tuple[str, Module, ModuleSpec]]) -> int:
    """Return the tensors that are kept of all modules when get_peft_model begins."""
    size = OF_SAMPLES[kind][1] if kind in OF_SAMPLES else None
    return sum(size(_weight(module, spec)) for _, module, spec in adapted) if size else 0


def _preprocessing_peaks(kind: str, base: int, weights: list[Weight]) -> Iterator[InitialPeak]:
    """Yield the peaks of PEFT's preprocessing, without the samples' own passes."""
    if kind == "lora_ga":
        gradients, largest = sum(map(gradient_bytes, weights)), max(map(gradient_bytes, weights))
        alive = (_row("weights", base), _row(_KEPT[kind], gradients), _row("gradient, averaged", largest))
        yield InitialPeak(alive, "preprocess_loraga")
    if kind == "corda":
        before = (_row("weights", base), _row("covariance matrices", sum(map(covariance_bytes, weights))))
        values = 0
        for weight in weights:
            temporaries = Temporaries()
            corda_eigens(temporaries, weight)
            alive_rows = (_row("singular values of the modules before", values), *map(_tensor_row, temporaries.peak))
            yield InitialPeak((*before, *alive_rows), "preprocess_corda")
            values += singular_bytes(weight)
        yield InitialPeak((*before, _row(_KEPT[kind], sum(map(cropped_bytes, weights)))), "preprocess_corda")


def offloaded_to_host(resident: ResidentState) -> int:
    """Return the bytes of host memory that the initialization takes if the model is on the GPU: CorDA's vectors."""
    if _kind(resident.prepared) != "corda":
        return 0
    return sum(offloaded_bytes(_weight(module, spec)) for _, module, spec in _initialized(resident.prepared))


def replaced_on_host(resident: ResidentState) -> int:
    """Return the bytes of host memory that the initialization takes if the model is on the host.

    They are the weights that are replaced so far and temporary tensors. LAPACK's workspaces are not counted. What runs
    on samples is assumed to run on the GPU.
    """
    kind, replaced, peak = _kind(resident.prepared), 0, 0
    decompose = OF_WEIGHTS.get(kind)
    if decompose is None:
        return 0
    replaces = kind != "mica"
    for _, module, spec in _initialized(resident.prepared):
        temporaries = Temporaries()
        decompose(temporaries, _weight(module, spec))
        peak = max(peak, replaced + temporaries.peak_bytes)
        replaced += elements(module.weight.shape) * ITEMSIZE[spec.dtype] if replaces else 0
    return max(peak, replaced)


def _kind(prepared: PreparedModel) -> str:
    """Return the name of the initialization of LoRA or QLoRA, or an empty string for other methods."""
    method = prepared.method
    kind = method.init_lora_weights if isinstance(method, LowRank) else None
    return kind if isinstance(kind, str) else ""


def _initialized(prepared: PreparedModel) -> Iterator[tuple[str, Module, ModuleSpec]]:
    """Yield every linear layer with an update over a dense weight or over a 4-bit weight of bitsandbytes."""
    for path, module, spec in prepared.modules:
        dense = spec.quantization is None or isinstance(spec.quantization, Quantization)
        if dense and _has_update(spec):
            yield path, module, spec


def _has_update(spec: ModuleSpec) -> bool:
    return any(parameter.name == UPDATE for parameter in spec.added)


def _weight(module: Module, spec: ModuleSpec) -> Weight:
    return Weight(
        rows=int(module.out_features),
        columns=int(module.in_features),
        rank=int(spec.added[0].shape[0]),
        dtype=_dtype(spec),
        is_stored=spec.quantization is not None,
    )


def _cast_in_first_run(module: Module, spec: ModuleSpec) -> int:
    """Return by how many bytes the bias of a 4-bit layer is larger before its first run casts it."""
    if module.bias is None or spec.quantization is None:
        return 0
    count = elements(module.bias.shape)
    return allocated(count, ITEMSIZE[spec.dtype]) - allocated(count, ITEMSIZE[spec.dtype_of(module.bias)])


def _dtype(spec: ModuleSpec) -> DType:
    """Return the dtype of a weight, or the dtype that a 4-bit weight is dequantized to."""
    return spec.quantization.compute_dtype if isinstance(spec.quantization, Quantization) else spec.dtype


def _present(given: tuple[Row, ...]) -> tuple[Row, ...]:
    return tuple(sorted((row for row in given if row.bytes), key=lambda row: -row.bytes))


def _row(name: str, size: int) -> Row:
    return Row.build(name=name, count=1, bytes=size, shape=None, dtype="", source=SOURCE)


def _tensor_row(tensor: Allocated) -> Row:
    name, shape, dtype = tensor
    size = allocated(elements(shape), ITEMSIZE[dtype])
    return Row.build(name=name, count=1, bytes=size, shape=shape, dtype=dtype, source=SOURCE)


def warnings(resident: ResidentState, peak: int) -> tuple[str, ...]:
    """Return warnings: adding the adapter exceeds the peak of a step, or samples determine EVA's ranks."""
    kind = _kind(resident.prepared)
    if not kind:
        return ()
    is_modeled = resident.prepared.device.sharding in ("none", "ddp")
    initial = initialization_peak(resident) if is_modeled else None
    ranks = tuple(_ranks_of_eva(resident.prepared)) if kind == "eva" else ()
    if initial is None or initial.bytes <= peak:
        return ranks
    sentence = (
        f"Adding the adapter to a model that is on the GPU takes {initial.bytes / 2**30:.2f} GiB at its peak, more than"
        f" a step ({peak / 2**30:.2f} GiB), without cuSOLVER's workspaces."
    )
    return (*ranks, sentence)


def _ranks_of_eva(prepared: PreparedModel) -> Iterator[str]:
    """Yield the range of the number of parameters that EVA trains, if samples determine its ranks."""
    method = prepared.method
    assert isinstance(method, LowRank)
    given = [(_weight(module, spec), spec) for _, module, spec in prepared.modules if _has_update(spec)]
    ranks, sizes = [weight.rank for weight, _ in given], sorted(weight.rows + weight.columns for weight, _ in given)
    highest = components(max(ranks), rho_of(method.eva_config))
    if highest == min(ranks):
        return
    fewest = _parameters_of_ranks(sizes, highest, sum(ranks))
    most = _parameters_of_ranks(sizes[::-1], highest, sum(ranks))
    yield (
        f"EVA gives the {len(ranks)} modules ranks from 0 to {highest}, {sum(ranks):,} in all, by samples: A and B have"
        f" {fewest:,} to {most:,} parameters. Set rho 1 in method.eva_config to keep the ranks, or put those that EVA"
        " found into method.rank_pattern. Where a rank changes, A and B get the dtype of the module's weight."
    )


def _parameters_of_ranks(sizes: list[int], most: int, budget: int) -> int:
    """Return the parameters of the updates if the first modules get as many ranks as possible."""
    total = 0
    for size in sizes:
        rank = min(most, budget)
        total, budget = total + rank * size, budget - rank
    return total
