"""The peak of loading a model: on the GPU, and in the host memory of the process.

Sources: transformers 5.24, core_model_loading.py (_materialize_copy, spawn_materialize, GLOBAL_WORKERS) and
modeling_utils.py (_load_pretrained_model), which maps the files into memory and creates every model on the meta device,
and integrations/deepspeed.py (_load_state_dict_into_zero3_model); safetensors 0.8, whose tensors are views of the
mapped file.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, chain
from typing import TYPE_CHECKING

from calculator.allocator.broadcast_loading import LoadedByBroadcast, broadcasts
from calculator.allocator.loading import Loading
from calculator.common.dtype import ITEMSIZE, DType
from calculator.estimation.answer import Row
from calculator.estimation.initialization import initialization_peak, offloaded_to_host, replaced_on_host
from calculator.run.evaluation import PhasePeak
from calculator.run.fused_experts import (
    CAST,
    MOST_KEPT,
    TWICE,
    FusesExperts,
    from_parts,
    parts_of,
    read_ahead,
    until_moved,
)
from calculator.run.sharded_loading import sharding_moments

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from calculator.inputs.run import RunSettings
    from calculator.resident.tensor import ResidentTensor
    from calculator.training_step.resident_state import ResidentState

#: The dtypes of a checkpoint, by their names in a config.
_DTYPES: dict[str, DType] = {"bfloat16": "bfloat16", "float16": "float16", "float32": "float32"}

#: The number of threads that read weights. A single thread reads them if they are quantized.
WORKERS = 4

#: The sentence on host memory if the model is there when its adapter is initialized.
ON_HOST = (
    "The adapter is initialized on the host: the weights that it replaces and the largest decomposition are counted,"
    " without LAPACK's workspaces."
)

#: The sentence on host memory if CorDA runs on the GPU.
OFFLOADED = "CorDA keeps the singular vectors of every adapted weight in host memory until all are decomposed."

_SOURCE = "transformers/core_model_loading.py; safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPeak:
    """The bytes that a phase adds to the resident set of the process, those in mapped files, and the source.

    `in_first_process`: whether the other processes of the node add nothing.
    """

    bytes: int
    file_bytes: int
    sentence: str
    in_first_process: bool = False


class ModelLoading:
    """`from_pretrained`, then the move to the GPU if the weights are read into host memory."""

    def __init__(self, resident: ResidentState, run: RunSettings, config: dict[str, Any] | None) -> None:
        self.resident, self.run = resident, run
        self.prepared = resident.prepared
        self.dtype: DType = self.prepared.given.dtype
        stated = run.checkpoint_dtype or _dtype_of(config or {})
        self.states_dtype = stated is not None
        self.stored: DType = stated or self.dtype

    @property
    def quantizes(self) -> bool:
        """Whether linear layers are quantized as they are read."""
        return any(tensor.packed and not tensor.in_checkpoint for tensor in self.resident.tensors)

    @property
    def reads_onto_gpu(self) -> bool:
        """Whether weights are read onto the GPU. transformers sets device_map for a 4-bit model."""
        return self.quantizes or self.run.device_map is not None

    def peak(self, usable: int | None) -> PhasePeak:
        """Return the peak bytes alive on the GPU, and the tensors alive then."""
        if self.prepared.device.sharding in ("none", "ddp"):
            return max(self._gpu_peaks(usable), key=lambda moment: moment.bytes)
        if broadcasts(self.prepared):
            return _peak_of(LoadedByBroadcast(self.resident), usable)
        moments = [PhasePeak(rows=_merged(alive), operation=what) for alive, what in sharding_moments(self.resident)]
        if self.reads_onto_gpu:
            moments += self._gpu_peaks(usable)
        return max(moments, key=lambda moment: moment.bytes)

    def _gpu_peaks(self, usable: int | None) -> list[PhasePeak]:
        """Return the peaks until the whole model is on the GPU, and of adding an adapter to it there."""
        added = initialization_peak(self.resident) if self.reads_onto_gpu else None
        moments = [self._reading_peak(usable)]
        if added is not None:
            moments.append(PhasePeak(rows=added.rows, operation=added.operation))
        return moments

    def _reading_peak(self, usable: int | None) -> PhasePeak:
        """Return the peak until the whole model is on the GPU."""
        if not self.reads_onto_gpu:
            rows = [_row(tensor.name, tensor.count, tensor.bytes) for tensor in self.resident.tensors]
            return PhasePeak(rows=tuple(sorted(rows, key=lambda row: -row.bytes)), operation="model.to(device)")
        return max(self._reading_onto_gpu_peaks(usable), key=lambda moment: moment.bytes)

    def _reading_onto_gpu_peaks(self, usable: int | None) -> Iterator[PhasePeak]:
        """Yield the peak of reading the weights, and that of fusing experts if threads have read all parts."""
        tensors, training, model_type = self.resident.tensors, self.prepared.training, self.prepared.model.model_type
        if self.quantizes:
            yield _peak_of(FusesExperts(tensors, training, model_type), usable)
            return
        yield _peak_of(Loading(tensors, training), usable)
        fusing = read_ahead(self._tensors_of_files, training, model_type)
        if fusing is not None:
            yield PhasePeak(rows=_merged(fusing[0]), operation=fusing[1])

    @property
    def _tensors_of_files(self) -> Iterator[ResidentTensor]:
        """The model's own tensors that are in its files: weights, and buffers of the state dict."""
        decoder = self.prepared.model.decoder
        buffers = (buffer for layer in decoder.layers for buffer in layer.buffers if buffer.persistent)
        names = {f"{decoder.name}.*.{buffer.name}" for buffer in buffers}
        return (
            tensor for tensor in self.resident.tensors if tensor.base and (tensor.parameters or tensor.name in names)
        )

    @property
    def host(self) -> HostPeak:
        """The maximum number of bytes of the process in host memory."""
        heads = self.prepared.model.task.head_names
        weights = [tensor for tensor in self.resident.whole if tensor.base and tensor.parameters]
        base = [tensor for tensor in weights if tensor.name.split(".")[0] not in heads]
        new = sum(weight.parameters * weight.count * ITEMSIZE[self.dtype] for weight in weights if weight not in base)
        if self.resident.partitioned is not None and self.resident.partitioned.is_built_partitioned:
            return self._under_zero_init(base)
        read = self._with_adapter(self._file_peak(base))
        if not new or self.reads_onto_gpu:
            return read
        sentence = f"{read.sentence} The head is not in the files: it is new."
        return HostPeak(bytes=read.bytes + new, file_bytes=read.file_bytes, sentence=sentence)

    def _with_adapter(self, read: HostPeak) -> HostPeak:
        """Return the peak with what an initialization of the adapter adds, if it runs on the host."""
        added = offloaded_to_host(self.resident) if self.reads_onto_gpu else replaced_on_host(self.resident)
        if not added:
            return read
        sentence = f"{read.sentence} {OFFLOADED if self.reads_onto_gpu else ON_HOST}"
        return HostPeak(bytes=read.bytes + added, file_bytes=read.file_bytes, sentence=sentence)

    def _file_peak(self, base: list[ResidentTensor]) -> HostPeak:
        """Return the bytes for weights from the files."""
        count = sum(tensor.parameters * tensor.count for tensor in base if not tensor.in_checkpoint)
        mapped = count * ITEMSIZE[self.stored] + self._packed_bytes
        casts = self.stored != self.dtype
        if not self.reads_onto_gpu:
            cast = self._cast_by_sharding(base)
            if cast > (count * ITEMSIZE[self.dtype] if casts else 0):
                sentence = f"The mapped files in {self.stored}, and weights that {self._sharding} casts on the host."
                return HostPeak(bytes=mapped + cast, file_bytes=mapped, sentence=sentence)
            if casts:
                return self._cast_peak(base, count, mapped)
            return self._view_peak(base, mapped)
        sentence = "The mapped files, which are read and copied to the GPU."
        if not casts:
            return HostPeak(bytes=mapped, file_bytes=mapped, sentence=sentence)
        largest = max(tensor.parameters // self._tensors_in_files(tensor) for tensor in base) * ITEMSIZE[self.dtype]
        temporary = largest * (1 if self.quantizes else WORKERS)
        sentence += f" Weights are cast to {self.dtype} on their way, {'one' if self.quantizes else WORKERS} at a time."
        return HostPeak(bytes=mapped + temporary, file_bytes=mapped, sentence=sentence)

    def _view_peak(self, base: list[ResidentTensor], mapped: int) -> HostPeak:
        """Return the bytes if nothing is cast: views of the files, and experts' weights that are fused."""
        sentence = "The weights are views of the mapped files. They are read when they move to the GPU."
        fused = sum(tensor.parameters * tensor.count for tensor in self._fused(base)) * ITEMSIZE[self.dtype]
        if not fused:
            return HostPeak(bytes=mapped, file_bytes=mapped, sentence=sentence)
        sentence += f" {TWICE}"
        if self.prepared.device.sharding not in ("none", "ddp") or self._packed_bytes:
            return HostPeak(bytes=mapped + fused, file_bytes=mapped, sentence=sentence)
        most = until_moved(base, self.prepared.model.model_type, ITEMSIZE[self.dtype])
        return HostPeak(bytes=sum(most), file_bytes=most.mapped, sentence=sentence)

    def _cast_peak(self, base: list[ResidentTensor], count: int, mapped: int) -> HostPeak:
        """Return the bytes if all `count` elements are cast on the host."""
        fused = max((tensor.parameters for tensor in self._fused(base)), default=0) * ITEMSIZE[self.dtype]
        sentence = f"The mapped files in {self.stored}, and all weights cast to {self.dtype}."
        sentence += f" {CAST}" * (fused > 0)
        size = mapped + count * ITEMSIZE[self.dtype] + fused
        return HostPeak(bytes=size, file_bytes=mapped, sentence=sentence)

    @property
    def kept_by_malloc(self) -> int:
        """The bytes of freed tensors that malloc may keep: casts of experts' weights that are not large."""
        if self.reads_onto_gpu or self.stored == self.dtype:
            return 0
        fused = self._fused(tensor for tensor in self.resident.whole if tensor.base)
        size = ITEMSIZE[self.dtype]
        small = (tensor for tensor in fused if tensor.parameters // self._tensors_in_files(tensor) * size < MOST_KEPT)
        return sum(tensor.parameters * tensor.count for tensor in small) * size

    def _tensors_in_files(self, tensor: ResidentTensor) -> int:
        """Return the tensors in the files that a weight is read from."""
        model_type = self.prepared.model.model_type
        return parts_of(tensor, model_type) if from_parts(tensor, model_type) else 1

    def _fused(self, base: Iterable[ResidentTensor]) -> Iterator[ResidentTensor]:
        """Return the weights of experts that are fused."""
        return (tensor for tensor in base if from_parts(tensor, self.prepared.model.model_type))

    def _under_zero_init(self, base: list[ResidentTensor]) -> HostPeak:
        """Return the bytes if only the first process reads the files onto its GPU, and broadcasts the weights."""
        mapped = sum(tensor.parameters * tensor.count for tensor in base) * ITEMSIZE[self.stored]
        dtype = self.prepared.cast_to or "float32"
        sentence = "The mapped files, which the first process alone reads (deepspeed.zero.Init)."
        if self.stored == dtype:
            return HostPeak(bytes=mapped, file_bytes=mapped, sentence=sentence, in_first_process=True)
        largest = max(tensor.parameters for tensor in base) * ITEMSIZE[dtype]
        sentence += f" It casts weights to {dtype} on their way, one at a time."
        return HostPeak(bytes=mapped + largest, file_bytes=mapped, sentence=sentence, in_first_process=True)

    @property
    def _sharding(self) -> str:
        return "accelerate" if self.prepared.device.sharding == "fsdp" else "DeepSpeed"

    def _cast_by_sharding(self, base: Iterable[ResidentTensor]) -> int:
        """Return the bytes of the model on the host after its weights are cast for FSDP or DeepSpeed.

        Mapped files are not included.
        """
        if self.prepared.device.sharding in ("none", "ddp") or self.prepared.given.autocast is None:
            return 0
        whole = sum(
            tensor.parameters * tensor.count * ITEMSIZE[tensor.dtype] for tensor in base if tensor.dtype != self.dtype
        )
        kept = sum(tensor.parameters * tensor.count for tensor in base if tensor.dtype == self.dtype)
        return whole + (kept * ITEMSIZE[self.dtype] if self.stored != self.dtype else 0)

    @property
    def _packed_bytes(self) -> int:
        """The bytes of weights that the checkpoint has in their stored format, and of their constants."""
        tensors = self.resident.tensors
        if not any(tensor.in_checkpoint for tensor in tensors):
            return 0
        parts = ("base_weights", "quantization_constants")
        return sum(
            tensor.bytes for tensor in tensors if tensor.component in parts and (tensor.packed or not tensor.parameters)
        )


def _peak_of(loading: Loading, usable: int | None) -> PhasePeak:
    """Return the peak of some allocations."""
    sizes, stages = loading.for_device(usable)
    events = [*chain.from_iterable(stages)]
    alive = [*accumulate(sizes[event] if event >= 0 else -sizes[~event] for event in events)]
    at = max(range(len(alive)), key=alive.__getitem__)
    live: dict[int, None] = {}
    for event in events[: at + 1]:
        if event >= 0:
            live[event] = None
        else:
            del live[~event]
    operation = loading.names[events[at]] if events[at] >= 0 else ""
    return PhasePeak(rows=_merged((loading.names[row], sizes[row]) for row in live), operation=operation)


def _dtype_of(config: dict[str, Any]) -> DType | None:
    """Return the dtype of a checkpoint, according to its config."""
    text = config.get("text_config")
    stated = text if isinstance(text, dict) else {}
    for value in (config.get("dtype"), config.get("torch_dtype"), stated.get("dtype"), stated.get("torch_dtype")):
        name = str(value).removeprefix("torch.")
        if name in _DTYPES:
            return _DTYPES[name]
    return None


def _merged(alive: Iterable[tuple[str, int]]) -> tuple[Row, ...]:
    """Return one row for each name, the largest first."""
    merged: dict[str, list[int]] = {}
    for name, size in alive:
        merged.setdefault(name, []).append(size)
    rows = [_row(name, len(sizes), sum(sizes)) for name, sizes in merged.items()]
    return tuple(sorted(rows, key=lambda row: -row.bytes))


def _row(name: str, count: int, size: int) -> Row:
    return Row.build(name=name, count=count, bytes=size, shape=None, dtype="", source=_SOURCE)
