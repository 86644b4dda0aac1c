"""The peaks of each rank under stages 1 and 2 with offload_optimizer.

Source: deepspeed/runtime/zero/stage_1_and_2.py, copy_grads_in_partition, set_norm_for_param_grad_in_gpu and
async_inplace_copy_grad_to_fp32_buffer_from_gpu.
"""

from __future__ import annotations

from itertools import pairwise
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING

from calculator.inputs.sharding import STAGES
from calculator.sharding.zero.state import row
from calculator.training_step.zero.peaks import FlatPeaks

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from calculator.resident.per_parameter import ResidentTensors
    from calculator.resident.tensor import ResidentTensor
    from calculator.sharding.zero.plan import Point
    from calculator.sharding.zero.reduction import Large
    from calculator.training_step.zero.peaks import PeakPoint, _Share

#: The number of scalars that are alive while a gradient is checked for infinities, in addition to the norms.
OVERFLOW_SCALARS = 6
#: The number of scalars for the sum of all ranks' norms.
STEP_SCALARS = 1

_SIZE = attrgetter("bytes")


class OffloadedPeaks(FlatPeaks):
    """The peaks of each rank if the optimizer is offloaded.

    A rank computes the norm of each gradient of its partition when the gradient is reduced, and copies it to the host.
    """

    def _step_of(self, number: int, gradients: tuple[ResidentTensor, ...]) -> tuple[ResidentTensors, ...]:  # noqa: ARG002
        """Return the tensors of the step on the GPU: the norms. The update runs on the host."""
        return (*_norms(len(self._reduction.copies.get(number, ()))), _numbers(STEP_SCALARS))

    def _equivalence_key(self, number: int) -> Hashable:
        """Return the number of norms, which is all that ranks differ by outside the backward pass."""
        return len(self._reduction.copies.get(number, ()))

    def _peak_point(self, number: int, share: _Share) -> PeakPoint:  # noqa: ARG002
        """Return the peak point of a rank in the backward pass, with the norms and copies that are alive there."""
        points = self._points(number)
        return max(((point.bytes + _bytes(alive), point, alive) for point, alive in points), key=itemgetter(0))

    def _points(self, number: int) -> Iterator[tuple[Point, tuple[ResidentTensor, ...]]]:
        """Yield the points at which a rank may have the most bytes."""
        intervals, copies = self._reduction.intervals, self._reduction.copies.get(number, [])
        large = self._large.get(number, [])
        if self._earlier is not None:
            yield self._earlier.intervals[0], ()
        for start, end, kept in self._earlier_intervals(number):
            yield _with_large(max(intervals[start:end], key=_SIZE), kept), ()
        after = [copy.interval + 1 for copy in copies] + [gradient.interval + 1 for gradient in large]
        cuts = sorted({0, len(intervals), *after})
        for start, end in pairwise(cuts):
            norms = _norms(sum(copy.interval < start for copy in copies))
            yield _with_large(max(intervals[start:end], key=_SIZE), -_bytes_before(large, start)), norms
        for done, copy in enumerate(copies, 1):
            point = _with_large(intervals[copy.interval], -_bytes_before(large, copy.interval))
            for tensor in self._copied(copy.elements):
                yield point, (*_norms(done), tensor)
        yield self._after_reductions(large), _norms(len(copies))

    @property
    def in_backward(self) -> tuple[ResidentTensors, ...]:
        """The tensors of the peak rank in the backward pass, with all norms and the largest float64 copy."""
        copies = self._reduction.copies.get(self.peak_rank.number, ())
        largest = max((copy.elements for copy in copies), default=0)
        copied = (_in_float64(largest),) if largest else ()
        return (*super().in_backward, *_norms(len(copies)), *copied)

    def _copied(self, elements: int) -> Iterator[ResidentTensor]:
        """Yield the tensors that a rank allocates, one after the other, for a gradient of its partition."""
        yield _in_float64(elements)
        yield _numbers(OVERFLOW_SCALARS)
        if self._state.dtype != "float32":
            yield row("gradient in float32", elements, "gradient", "float32")

    def _earlier_intervals(self, number: int) -> Iterator[tuple[int, int, int]]:
        """Yield the intervals of earlier micro-batches of stage 2.

        Each comes with the bytes of large gradients that the rank keeps.
        """
        accumulates = self._state.prepared.training.gradient_accumulation_steps > 1
        large = [gradient for gradient in self._reduction.large if number in gradient.ranks]
        if STAGES[self._state.prepared.device.sharding] == 1 or not accumulates or not large:
            return
        cuts = sorted({0, len(self._reduction.intervals), *(gradient.interval + 1 for gradient in large)})
        for start, end in pairwise(cuts):
            yield start, end, _bytes_before(large, start)

    def line(self) -> list[int]:
        """Return the peak in each part of the backward pass (head, layers, code before) on the peak rank."""
        number = self.peak_rank.number
        copies, kept = self._reduction.copies.get(number, []), [*self._earlier_intervals(number)]
        large = self._large.get(number, [])
        shared = sum(tensor.bytes for tensor in self._kept)
        norms = [_bytes(_norms(count)) for count in range(len(copies) + 1)]
        line = []
        for points in self._line:
            sizes = [
                size + norms[sum(c.interval < at for c in copies)] - _bytes_before(large, at) for at, size in points
            ]
            sizes += [size + more for at, size in points for start, end, more in kept if start <= at < end]
            line.append(max(sizes))
        for done, copy in enumerate(copies, 1):
            size = self._reduction.intervals[copy.interval].bytes - _bytes_before(large, copy.interval)
            most = size + norms[done] + max(tensor.bytes for tensor in self._copied(copy.elements))
            line[copy.layer] = max(line[copy.layer], most)
        if self._earlier is not None:
            line = [
                max(most, *(size for _, size in points)) for most, points in zip(line, self._earlier_line, strict=True)
            ]
        line[-1] = max(line[-1], self._after_reductions(large).bytes + norms[-1])
        return [shared + most for most in line]


def _bytes_before(large: list[Large], interval: int) -> int:
    """Return the bytes of large gradients that are copied before an interval."""
    return sum(gradient.bytes for gradient in large if gradient.interval < interval)


def _with_large(point: Point, large: int) -> Point:
    """Return a point with more or fewer bytes of large gradients."""
    return point.without(-large)


def _norms(count: int) -> tuple[ResidentTensor, ...]:
    return (row("norms of gradients", 1, "", "float64", count=count),) if count else ()


def _in_float64(elements: int) -> ResidentTensor:
    return row("gradient in float64", elements, "gradient", "float64")


def _numbers(count: int) -> ResidentTensor:
    return row("norms and flags", 1, "", "float32", count=count)


def _bytes(tensors: tuple[ResidentTensor, ...]) -> int:
    return sum(tensor.bytes for tensor in tensors)
