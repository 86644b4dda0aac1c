"""The buckets in which DistributedDataParallel reduces gradients.

Source: torch/csrc/distributed/c10d/reducer.cpp (compute_bucket_assignment_by_size, initialize_buckets, rebuild_buckets)
and torch/nn/parallel/distributed.py (BucketCapacityConfig).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from itertools import accumulate, chain, compress, repeat
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from calculator.architecture.dimension import named
from calculator.common.dtype import ITEMSIZE, DType, allocated
from calculator.resident.tensor import ResidentTensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from calculator.inputs.sharding import DDPConfig

#: The cap of the first bucket if no cap is passed (torch/csrc/distributed/c10d/reducer.hpp, kDefaultFirstBucketBytes).
FIRST_BUCKET_BYTES = 1 << 20
#: The default cap in MiB (torch/nn/parallel/distributed.py, _DEFAULT_BUCKET_CAP_MB). accelerate passes no cap that is
#: equal to it.
DEFAULT_CAP_MB = 25

NAME = "DistributedDataParallel: gradient bucket"
USED = "DistributedDataParallel: map of used parameters"


_DTYPE, _ELEMENTS = attrgetter("dtype"), attrgetter("elements")


class Bucket(NamedTuple):
    """A tensor that contains the gradients of several parameters of one dtype."""

    elements: int
    dtype: DType

    @property
    def bytes(self) -> int:
        """The bytes of its storage, rounded up to 512."""
        return allocated(self.elements, ITEMSIZE[self.dtype])


class Buckets(NamedTuple):
    """The buckets of DDP in the first step, and in all later steps.

    They are the same if DDP looks for unused parameters, because it then does not learn the order in which gradients
    are ready.
    """

    first: tuple[Bucket, ...]
    steady: tuple[Bucket, ...]

    @property
    def are_rebuilt(self) -> bool:
        """Whether the second step begins by replacing the first step's buckets."""
        return self.first is not self.steady

    @property
    def resident(self) -> tuple[ResidentTensor, ...]:
        """The buckets of all steps after the first, by size."""
        return tuple(
            ResidentTensor(
                name=NAME,
                shape=(named(bucket.elements, "bucket_size"),),
                dtype=bucket.dtype,
                component="gradients",
                count=count,
                base=False,
            )
            for bucket, count in Counter(self.steady).items()
        )

    @property
    def payload_bytes(self) -> int:
        """The bytes of all gradients, which each step reduces."""
        return sum([bucket.elements * ITEMSIZE[bucket.dtype] for bucket in self.steady])


def buckets(parameters: Sequence[Bucket], config: DDPConfig, ready: Callable[[], Sequence[Bucket]]) -> Buckets:
    """Return the buckets of trained parameters.

    `parameters` are in the model's order. `ready` returns them in the order in which their gradients are ready. DDP
    fills the buckets of all steps after the first in that order.
    """
    cap = config.bucket_cap_mb << 20
    caps = (FIRST_BUCKET_BYTES, cap) if config.bucket_cap_mb == DEFAULT_CAP_MB else (cap,)
    if config.copies_outputs:
        only = (*reversed(_assigned(parameters, caps)),)
        return Buckets(first=only, steady=only)
    first = _assigned(parameters, ())
    is_one_of_each = all(bucket.elements * ITEMSIZE[bucket.dtype] < caps[0] for bucket in first)
    return Buckets(first=first, steady=_assigned(parameters if is_one_of_each else ready(), caps))


def used_map(tensors: Iterable[ResidentTensor], config: DDPConfig) -> tuple[ResidentTensor, ...]:
    """Return the map of used parameters, which DDP keeps if it looks for unused ones.

    It is on the GPU from the construction of DDP to the end of the run. With a static graph, DDP looks for unused
    parameters in the first step (reducer.cpp, initialize_local_used_map and set_static_graph).
    """
    if not (config.find_unused_parameters or config.static_graph):
        return ()
    count = sum(tensor.count for tensor in tensors if tensor.trained)
    shape = (named(count, "trained tensors"),)
    return (ResidentTensor(name=USED, shape=shape, dtype="int32", component="workspace", base=False),)


def _assigned(parameters: Sequence[Bucket], caps: tuple[int, ...]) -> tuple[Bucket, ...]:
    """Fill buckets with parameters in order, separately for each dtype.

    A bucket is complete when its bytes reach its cap. The last cap applies to all further buckets of its dtype. Without
    caps, there is one bucket.
    """
    #: The buckets, by the place of the parameter that completes one, or that begins one which is never complete.
    complete: list[tuple[int, Bucket]] = []
    others: list[tuple[int, Bucket]] = []
    dtypes, elements = [*map(_DTYPE, parameters)], [*map(_ELEMENTS, parameters)]
    for dtype in dict.fromkeys(dtypes):
        is_dtype = map(dtype.__eq__, dtypes)
        places = [*compress(range(len(dtypes)), is_dtype)]
        filled = [*accumulate(map(elements.__getitem__, places))]
        before = number = 0
        for cap in chain(caps, repeat(caps[-1])) if caps else ():
            last = bisect_left(filled, before - (-cap // ITEMSIZE[dtype]), number)
            if last == len(filled):
                break
            complete.append((places[last], Bucket(filled[last] - before, dtype)))
            before, number = filled[last], last + 1
        if number < len(filled):
            others.append((places[number], Bucket(filled[-1] - before, dtype)))
    return (*[bucket for _, bucket in sorted(complete)], *[bucket for _, bucket in sorted(others)])
