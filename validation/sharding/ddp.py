"""DistributedDataParallel as accelerate's `prepare_model` makes it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from validation.sharding.engine import Engine

if TYPE_CHECKING:
    from calculator.inputs.sharding import Sharding
    from calculator.inputs.training import Training
    from validation.reference.build import ReferenceModel
    from validation.sharding.streams import Streams
    from validation.tracing.memory_tracker import MemoryTracker


#: The cap at which accelerate passes none (`KwargsHandler.to_kwargs`): then the first bucket is DDP's 1 MiB.
DEFAULT_BUCKET_CAP_MB = 25


class DDPEngine(Engine):
    """A replicated model, whose gradients are reduced in buckets.

    DDP orders the buckets anew after the first step, so the second is the first that is like all later ones.
    """

    warm_up_steps = 2

    def __init__(self, reference: ReferenceModel, training: Training, sharding: Sharding, streams: Streams) -> None:
        super().__init__(reference, training, sharding, streams)
        config = sharding.ddp
        self._buckets: dict[int, torch.Tensor] = {}
        self.model = DistributedDataParallel(
            reference.model,
            init_sync=False,
            gradient_as_bucket_view=config.gradient_as_bucket_view,
            find_unused_parameters=config.find_unused_parameters,
            static_graph=config.static_graph,
            bucket_cap_mb=None if config.bucket_cap_mb == DEFAULT_BUCKET_CAP_MB else config.bucket_cap_mb,
        )
        hook = lambda buckets, bucket: _reduced(buckets, bucket)  # noqa: E731, PLW0108  DDP refuses annotations as text
        self.model.register_comm_hook(self._buckets, hook)
        self.create_optimizer()

    def micro_batch(self, *, last: bool) -> AbstractContextManager[Any]:
        """Reduce in the last micro-batch only."""
        return nullcontext() if last else self.model.no_sync()

    def track(self, tracker: MemoryTracker) -> None:
        """Track the buckets."""
        for index, bucket in self._buckets.items():
            tracker.track_external(f"bucket {index}", bucket, "gradients")
        self._buckets.clear()


def _reduced(buckets: dict[int, torch.Tensor], bucket: Any) -> torch.futures.Future[torch.Tensor]:
    """A bucket, reduced in place; its index and tensor are kept in `buckets`."""
    buckets[bucket.index()] = bucket.buffer()
    dist.all_reduce(bucket.buffer())
    future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future
