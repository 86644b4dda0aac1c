"""FSDP2 as accelerate and transformers set it up: `fsdp2_prepare_model` with the plugin of `TrainingArguments.fsdp`."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import FullyShardedDataParallelPlugin, fsdp_utils
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule
from torch.distributed.fsdp._fully_shard import _fsdp_param_group, _fully_shard
from torch.distributed.tensor import DTensor

from validation.sharding.engine import Engine
from validation.sharding.streams import name_streams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from validation.sharding.engine import Record
    from validation.tracing.memory_tracker import MemoryTracker

#: accelerate's names of `training.autocast`.
MIXED_PRECISION = {None: "no", "bfloat16": "bf16", "float16": "fp16"}


class FSDPEngine(Engine):
    """A model whose units are gathered for their forward and backward passes."""

    wrappers = (DTensor,)

    @property
    def warm_up_steps(self) -> int:
        """Steps before the traced one."""
        # DTensor finds out where an operation's results are when it first runs, with tensors that a trace would see.
        # RAdam normalizes gradients after the first steps.
        return 2 if self.training.optimizer == "schedule_free_radam" else 1

    def build(self) -> None:
        """Shard the model and create its optimizer."""
        sharding, reference = self._sharding, self.reference
        precision = MIXED_PRECISION[self.training.autocast]
        classes = list(sharding.fsdp_config.transformer_layer_cls_to_wrap or ()) or None
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="TRANSFORMER_BASED_WRAP",
            transformer_cls_names_to_wrap=classes,
            cpu_ram_efficient_loading=sharding.fsdp_config.cpu_ram_efficient_loading,
            reshard_after_forward=sharding.fsdp_config.reshard_after_forward,
            state_dict_type="FULL_STATE_DICT",
        )
        if sharding.fsdp_config.cpu_offload:
            plugin.cpu_offload = CPUOffloadPolicy(pin_memory=False)  # pinning needs CUDA
        if precision != "no":
            plugin.set_mixed_precision(precision)
        accelerator = SimpleNamespace(
            state=SimpleNamespace(fsdp_plugin=plugin),
            mixed_precision=precision,
            is_main_process=torch.distributed.get_rank() == 0,
            device=torch.device(self._device),
            torch_device_mesh=init_device_mesh(self._device, (sharding.count,), mesh_dim_names=("dp_shard",)),
            parallelism_config=SimpleNamespace(fsdp_dim_names=("dp_shard",)),
        )
        with mock.patch.object(fsdp_utils, "logger"), _shards_move(plugin):  # the logger needs an Accelerator
            self.model = fsdp_utils.fsdp2_prepare_model(accelerator, reference.model)
        self.create_optimizer()

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Shard a trainer's model over the devices of a trace; FSDP's default are those of the first accelerator.

        accelerate finds an optimizer's parameters again by their addresses, which tensors on meta do not have.
        """
        plugin = AcceleratorState().fsdp_plugin
        if isinstance(plugin.cpu_offload, CPUOffloadPolicy):
            plugin.cpu_offload = CPUOffloadPolicy(pin_memory=False)  # pinning needs CUDA
        with (
            meshes_of(self._device, self._sharding.count),
            mock.patch.object(torch.Tensor, "data_ptr", _address),
            _shards_move(plugin),
        ):
            yield

    def local(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the shard of this rank."""
        return tensor._local_tensor if isinstance(tensor, DTensor) else tensor

    def labeled(self) -> dict[str, torch.nn.Parameter]:
        """Return the trained parameters, unless their gradients are on the host."""
        return {} if self._sharding.fsdp_config.cpu_offload else self.trainable()

    def autocast_dtype(self) -> None:
        """None: the units' mixed precision policy casts instead."""

    def running(self) -> AbstractContextManager[Any]:
        """Allow parameters on meta."""
        return mock.patch.object(_fsdp_param_group.FSDPParamGroup, "_validate_no_meta_params", return_value=None)

    @contextmanager
    def tracing(self, tracker: MemoryTracker) -> Iterator[None]:
        """Record the buffers of gathers and reductions under their units."""
        with ExitStack() as stack:
            for name in ("foreach_all_gather", "foreach_reduce"):
                original = getattr(_fsdp_param_group, name)
                stack.enter_context(mock.patch.object(_fsdp_param_group, name, _recorded(original, tracker)))
            yield

    @contextmanager
    def micro_batch(self, *, last: bool) -> Iterator[None]:
        """Reduce in the last micro-batch only, as accelerate's `no_sync` does."""
        self.model.set_requires_gradient_sync(last)
        try:
            yield
        finally:
            self.model.set_requires_gradient_sync(True)

    def track(self, record: Record) -> None:
        """Track the gathered weights, which have no memory while they are sharded, and name the streams.

        A bias whose 4-bit layer has cast it (`bias.data`) in a step before has memory of its own.
        """
        names = {id(parameter): name for name, parameter in self.reference.named_parameters()}
        name_streams(self.model._get_fsdp_state()._comm_ctx)
        for state in (m._get_fsdp_state() for m in self.model.modules() if isinstance(m, FSDPModule)):
            for parameter in (param for group in _groups(state) for param in group.fsdp_params):
                name = names[id(parameter.sharded_param)]
                for gathered in parameter.all_gather_outputs:
                    record(f"{name}: gathered", gathered, self.component(name))
                whole = getattr(parameter, "_unsharded_param", None)
                if name.endswith(".bias") and whole is not None:
                    record(f"{name}: cast by its 4-bit layer", whole, self.component(name))


def _groups(state: Any) -> list[Any]:
    """The groups of a unit's parameters. Before PyTorch 2.12, a unit has one at most."""
    if hasattr(state, "_fsdp_param_groups"):
        return list(state._fsdp_param_groups)
    return [] if state._fsdp_param_group is None else [state._fsdp_param_group]


def meshes_of(device: str, count: int) -> AbstractContextManager[Any]:
    """Shard over the devices of a trace where a trainer names none."""
    mesh = init_device_mesh(device, (count,))
    names = ("_init_default_mesh", "_init_default_fully_shard_mesh")  # the latter before PyTorch 2.12
    name = next(name for name in names if hasattr(_fully_shard, name))
    return mock.patch.object(_fully_shard, name, return_value=mesh)


def _address(tensor: torch.Tensor) -> int:
    """Return a number that only tensors of the same storage have."""
    return tensor.untyped_storage()._cdata


def _shards_move(plugin: FullyShardedDataParallelPlugin) -> AbstractContextManager[Any]:
    """Let FSDP move shards from meta to the host with offload; it leaves shards on meta there otherwise."""
    offloads = isinstance(plugin.cpu_offload, CPUOffloadPolicy)
    return mock.patch.object(torch.Tensor, "is_meta", new=False, create=True) if offloads else nullcontext()


def _recorded(collective: Callable[..., Any], tracker: MemoryTracker) -> Callable[..., Any]:
    def run(parameters: list[Any], *args: Any, **options: Any) -> Any:
        unit = parameters[0]._param_fqn.rpartition(".")[0]
        with tracker.owner(unit, collective.__name__):
            return collective(parameters, *args, **options)

    return run
