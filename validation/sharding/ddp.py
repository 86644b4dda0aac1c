"""DistributedDataParallel as accelerate's `prepare_model` makes it."""

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager, nullcontext
from inspect import signature
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
import torch.distributed as dist
from torch.nn import parallel
from torch.utils._python_dispatch import TorchDispatchMode

from validation.reference.optimizers import optimizer_of
from validation.sharding.engine import Engine
from validation.stub_gpu.values import received_as_sent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from validation.sharding.engine import Record


#: The cap at which accelerate passes none (`KwargsHandler.to_kwargs`): then the first bucket is DDP's 1 MiB.
DEFAULT_BUCKET_CAP_MB = 25


class _Maps(TorchDispatchMode):
    """The maps of used parameters that a reducer allocates: its only empty integers (initialize_local_used_map)."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[torch.Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation, and keep what it allocates if that is a map. Its copy on the host is made of zeros."""
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket is torch.ops.aten.empty and result.dtype == torch.int32:
            self.tensors.append(result)
        return result


class RecordedDDP(parallel.DistributedDataParallel):
    """DistributedDataParallel on the only device of a process.

    `buckets` are the last ones that it reduced, and `used` the map of used parameters, which the reducer keeps on the
    device of the parameters if it looks for unused ones or has a static graph.
    """

    def __init__(self, module: torch.nn.Module, **options: Any) -> None:
        for name in ("device_ids", "output_device"):
            options.pop(name, None)
        with _Maps() as maps, _unsynchronized() as unsynchronized:
            super().__init__(module, **unsynchronized, **options)
        self.used = maps.tensors[-1:]
        self.buckets: dict[int, torch.Tensor] = {}
        hook = lambda buckets, bucket: _reduced(buckets, bucket)  # noqa: E731, PLW0108  DDP refuses annotations as text
        self.register_comm_hook(self.buckets, hook)


class OneRankDDP(parallel.DistributedDataParallel):
    """DistributedDataParallel on CUDA without other ranks.

    It compares no shapes with theirs, and reduces buckets in a hook: the reducer's own result is None on the `fake`
    process group.
    """

    def __init__(self, module: torch.nn.Module, **options: Any) -> None:
        with mock.patch.object(parallel.distributed, "_verify_param_shape_across_processes"):
            super().__init__(module, device_ids=[0], output_device=0, **options)
        self.register_comm_hook(None, lambda _, bucket: _all_reduced(bucket))

    def _pre_forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """Rebuild the buckets in their own order, where that is due."""
        with received_as_sent():
            return super()._pre_forward(*inputs, **kwargs)


@contextmanager
def _unsynchronized() -> Iterator[dict[str, Any]]:
    """The option with which DDP neither compares nor broadcasts what it wraps. PyTorch 2.6 has none."""
    if "init_sync" in signature(parallel.DistributedDataParallel.__init__).parameters:
        yield {"init_sync": False}
        return
    module = parallel.distributed
    with (
        mock.patch.object(module, "_verify_param_shape_across_processes"),
        mock.patch.object(module, "_sync_module_states"),
    ):
        yield {}


class DDPEngine(Engine):
    """A replicated model, whose gradients are reduced in buckets.

    DDP orders the buckets again before the second step, or with a static graph before the third, because in the first
    step it only learns the graph. The next step is the first that is like all later ones.
    """

    @property
    def warm_up_steps(self) -> int:
        """Steps before the traced one."""
        return 3 if self._sharding.ddp.static_graph else 2

    def build(self) -> None:
        """Wrap the model and create its optimizer."""
        config = self._sharding.ddp
        kind = OneRankDDP if self._device == "cuda" else RecordedDDP
        self.model = kind(
            self.reference.model,
            gradient_as_bucket_view=config.gradient_as_bucket_view,
            find_unused_parameters=config.find_unused_parameters,
            static_graph=config.static_graph,
            bucket_cap_mb=None if config.bucket_cap_mb == DEFAULT_BUCKET_CAP_MB else config.bucket_cap_mb,
        )
        self.optimizer = optimizer_of(self.training, self.reference.model)

    def preparing(self) -> AbstractContextManager[Any]:
        """Wrap a trainer's model as the reference's."""
        return mock.patch.object(parallel, "DistributedDataParallel", RecordedDDP)

    def micro_batch(self, *, last: bool) -> AbstractContextManager[Any]:
        """Reduce in the last micro-batch only."""
        return nullcontext() if last else self.model.no_sync()

    def track(self, record: Record) -> None:
        """Track the map of used parameters and the buckets."""
        for used in self.model.used:
            record("map of used parameters", used, "workspace")
        for index, bucket in self.model.buckets.items():
            record(f"bucket {index}", bucket, "gradients")
        self.model.buckets.clear()


def _reduced(buckets: dict[int, torch.Tensor], bucket: Any) -> torch.futures.Future[torch.Tensor]:
    """Return a bucket, reduced in place; its index and tensor are kept in `buckets`."""
    buckets[bucket.index()] = bucket.buffer()
    return _all_reduced(bucket)


def _all_reduced(bucket: Any) -> torch.futures.Future[torch.Tensor]:
    """Return a bucket, reduced in place."""
    dist.all_reduce(bucket.buffer())
    future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future
