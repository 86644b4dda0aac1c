"""The most bytes on a GPU while libraries shard a model, and while FSDP or ZeRO-3 gathers weights to save them, traced.

The model is on the host when FSDP begins, and on the GPU when DeepSpeed flattens it, which has cast it on the host.
"""

from __future__ import annotations

import gc
import weakref
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast
from unittest import mock

import torch
from accelerate.utils import fsdp_utils
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed._state_dict_utils import _gather_state_dict
from torch.distributed.fsdp._fully_shard import _fsdp_init
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Trainer

from calculator.common.dtype import allocated
from calculator.estimation.sharded_request import parse_sharded_request
from validation.reference.build import META, adapted, build_base, build_model
from validation.reference.optimizers import optimizer_for, optimizers_on_meta
from validation.sharding.from_checkpoint import checkpoint_of
from validation.sharding.host_reads import HostReads
from validation.sharding.process_group import one_rank_of
from validation.sharding.streams import Streams
from validation.sharding.trace import ENGINES
from validation.sharding.zero_init import applies, zero_init
from validation.tracing.initial_tensors import quantization_constants
from validation.tracing.shims import emulate_cuda, patched_model_code

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from validation.sharding.engine import Engine


class PeakOnMeta(TorchDispatchMode):
    """Counts the storages that are alive on the meta device, and the most bytes of them."""

    def __init__(self) -> None:
        super().__init__()
        self._alive: dict[int, tuple[weakref.ref[torch.UntypedStorage], int]] = {}
        self.bytes = self.peak_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count its outputs.

        DeepSpeed itself puts tensors that only have shapes on meta, and what PyTorch wraps after a collective has the
        memory of its result.
        """
        if any(issubclass(type_, DTensor) for type_ in types):
            return NotImplemented
        out = func(*args, **(kwargs or {}))
        only_shapes = func is torch.ops.aten.zeros_like.default and "device" in (kwargs or {})
        if not only_shapes and "_wrap_tensor" not in func._schema.name:
            self.count(leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor))
        return out

    def count(self, tensors: Iterable[torch.Tensor]) -> None:
        """Count tensors on the device. Those by which DTensor finds out shapes are none."""
        for tensor in tensors:
            if tensor.device.type == "meta" and not isinstance(tensor, DTensor | FakeTensor):
                self._add(tensor.untyped_storage())

    def leave_out(self, tensors: Iterable[torch.Tensor]) -> None:
        """Count tensors as without memory, which are on meta in a real run too."""
        for tensor in tensors:
            self._add(tensor.untyped_storage(), 0)

    def _add(self, storage: torch.UntypedStorage, size: int | None = None) -> None:
        key, size = storage._cdata, allocated(storage.nbytes(), 1) if size is None else size
        if key not in self._alive:
            self._alive[key] = weakref.ref(storage, lambda _: self._freed(key)), size
            self.bytes += size
            self.peak_bytes = max(self.peak_bytes, self.bytes)

    def _freed(self, key: int) -> None:
        self.bytes -= self._alive.pop(key)[1]


def trace_sharding(body: dict[str, Any]) -> tuple[int, int]:
    """Return the most bytes while the first GPU gets its part of a model, and while a full state dict is gathered.

    Raises:
        PlanError: if the libraries refuse the request.
    """
    sharded = parse_sharded_request(body)
    request, sharding, streams, peak = sharded.request, sharded.sharding, Streams(), PeakOnMeta()
    is_fsdp, quantizes = sharding.name == "fsdp", request.method.facts.quantizes_base
    broadcasts = sharding.fsdp_config.cpu_ram_efficient_loading and not quantizes
    is_partitioned = applies(request, sharding)
    with ExitStack() as stack:
        checkpoint = stack.enter_context(checkpoint_of(request)) if is_partitioned else None
        stack.enter_context(one_rank_of(sharding.count, sharding.count - 1 if broadcasts else 0, streams))
        for context in (emulate_cuda(), optimizers_on_meta(), patched_model_code(), HostReads()):
            stack.enter_context(context)
        stack.enter_context(mock.patch.object(_fsdp_init, "_move_states_to_device", _moved))
        on_host = is_fsdp and not quantizes
        device = torch.device("cpu") if on_host else META
        if is_partitioned:
            with zero_init(request, sharding, streams, META), peak:
                reference = adapted(build_base(request, META, auto_model=checkpoint), request, META)
        else:
            reference = build_model(request, device, quant_storage=sharding.quant_storage)
        if sharding.stage and request.training.autocast and not is_partitioned:
            reference.model.to(getattr(torch, request.training.autocast))
        peak.count(_tensors(reference.model))
        engine = ENGINES[sharding.name](reference, request.training, sharding, streams)
        engine._device = "meta"
        stack.enter_context(mock.patch.object(engine, "create_optimizer", partial(_create_optimizer, engine)))
        gc.collect()
        gc.disable()
        try:
            with _broadcasts(peak) if broadcasts else peak:
                engine.build()
        finally:
            gc.enable()
        most = peak.peak_bytes
        if is_fsdp:
            return most, _gathered(reference.model, offloads=sharding.fsdp_config.cpu_offload)
        if sharding.stage == 3:
            adapts = not request.method.facts.trains_base
            return most, _gathered_by_deepspeed(engine, peak, exclude_frozen_parameters=adapts)
    return most, 0


@contextmanager
def _broadcasts(peak: PeakOnMeta) -> Iterator[None]:
    """Count what accelerate allocates to broadcast and shard weights, and from there on.

    FSDP shards a model on meta before, which has no memory. What is loaded is on a GPU, so that shards that are not
    padded are copied.
    """
    load = fsdp_utils.fsdp2_load_full_state_dict

    def run(accelerator: Any, model: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        peak.leave_out(parameter._local_tensor for parameter in model.parameters())
        stack.enter_context(peak)
        with mock.patch.object(torch.Tensor, "is_meta", new=False, create=True):
            return load(accelerator, model, *args, **kwargs)

    with ExitStack() as stack, mock.patch.object(fsdp_utils, "fsdp2_load_full_state_dict", run):
        yield


def _create_optimizer(engine: Engine) -> None:
    """Create the optimizer with the Trainer's two groups: one with weight decay, one without."""
    model = engine.reference.model
    decays = Trainer.get_decay_parameter_names(cast("Any", None), model)
    groups: tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]] = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[name not in decays].append(parameter)
    engine.optimizer = optimizer_for(engine.training.optimizer, [{"params": group} for group in groups])


def _gathered_by_deepspeed(engine: Engine, peak: PeakOnMeta, **given: bool) -> int:
    """Return the most bytes that gathering the weights of one module after another allocates."""
    before = peak.peak_bytes = peak.bytes
    with engine.running(), torch.no_grad(), peak:
        engine.model._zero3_consolidated_16bit_state_dict(**given)
    return peak.peak_bytes - before


def _tensors(model: torch.nn.Module) -> Iterator[torch.Tensor]:
    for parameter in model.parameters():
        yield getattr(parameter, "ds_tensor", parameter)
    yield from model.buffers()
    for module in model.modules():
        yield from (
            constant
            for _, constant in quantization_constants(getattr(getattr(module, "weight", None), "quant_state", None))
        )


def _moved(parameters: Iterable[torch.Tensor], buffers: Iterable[torch.Tensor], _: torch.device) -> None:
    """Move tensors from the host to meta, which `data` can't."""
    for parameter in (*parameters, *buffers):
        if parameter.device.type == "meta":
            continue
        moved = torch.empty_like(parameter, device="meta")
        is_parameter = isinstance(parameter, torch.nn.Parameter)
        torch.utils.swap_tensors(
            parameter, torch.nn.Parameter(moved, parameter.requires_grad) if is_parameter else moved
        )


def _gathered(model: torch.nn.Module, *, offloads: bool) -> int:
    """Return the most bytes that gathering one parameter after another allocates; with offload, its shard too."""
    most = 0
    for parameter in (parameter for parameter in model.parameters() if isinstance(parameter, DTensor)):
        peak = PeakOnMeta()
        peak.count([parameter._local_tensor])
        before = 0 if offloads else peak.bytes
        with torch.no_grad(), peak:
            _gather_state_dict({"": parameter.detach()})
        most = max(most, peak.peak_bytes - before)
    return most
