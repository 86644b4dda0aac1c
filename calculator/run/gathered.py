"""The losses, logits and labels that the Trainer's evaluation keeps from batch to batch, concatenated.

Source: transformers 5.24, trainer.py (evaluation_loop, prediction_step) and trainer_pt_utils.py (EvalLoopContainer,
nested_concat, nested_numpify).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from calculator.architecture.dimension import Dim, Shape
from calculator.common.dtype import ITEMSIZE, DType, allocated
from calculator.estimation.answer import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The name of an output or of labels while they are concatenated.
WITH_BATCH = "gathered {} with the batch"

SOURCE = "transformers/trainer.py, evaluation_loop; trainer_pt_utils.py, nested_concat"


class OfRow(NamedTuple):
    """The part of an output of the model, or of its labels, that belongs to a row of the evaluation set."""

    name: str
    shape: Shape
    dtype: DType

    @property
    def bytes(self) -> int:
        """The bytes on the GPU."""
        return prod(self.shape) * ITEMSIZE[self.dtype]

    @property
    def array_bytes(self) -> int:
        """The bytes as a NumPy array. NumPy has no bfloat16, so the data type becomes float32."""
        return prod(self.shape) * 4 if self.dtype == "bfloat16" else self.bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A moment of the loop: the tensors that it keeps besides the batch, the batch's rows, and whether the model runs.

    `is_first`: whether no batch ran before it. `number` is the index of the batch in the evaluation.
    """

    kept: tuple[Row, ...]
    batch: int
    in_forward: bool
    is_first: bool = False
    number: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """The loop of an evaluation.

    Attributes:
        rows: The rows of a batch.
        samples: The rows of the evaluation set.
        steps: The number of batches after which the gathered tensors are moved to the host. None for all batches.
        outputs: The model's outputs except the loss, such as logits. Empty if none are gathered.
        labels: The labels, which are gathered with them.
        ranks: The GPUs, each of which runs a batch and gathers those of all. Batches are full on several: rows of the
            first are repeated (accelerate 1.15, data_loader.py, BatchSamplerShard).
        followed: How many of the first batches find something else on the GPUs; later ones are like the last of these.
    """

    rows: int
    samples: int
    steps: int | None
    outputs: tuple[OfRow, ...] = ()
    labels: tuple[OfRow, ...] = ()
    ranks: int = 1
    followed: int = 2

    @property
    def rows_per_gather(self) -> int:
        """The number of rows that are gathered at a time."""
        return self.rows * self.ranks

    @property
    def batches(self) -> int:
        """The number of batches of the evaluation on each GPU."""
        return -(-self.samples // self.rows_per_gather)

    def moments(self) -> Iterator[Moment]:
        """Yield the moments that may be the peak.

        In the first group, they are the last forward passes and the last concatenation.
        """
        yield from self._moments_on_one_gpu() if self.ranks == 1 else self._moments_on_several_gpus()

    def _moments_on_several_gpus(self) -> Iterator[Moment]:
        before = min(self.steps or self.batches, self.batches) - 1
        yield Moment(kept=(), batch=self.rows, in_forward=True, is_first=True, number=0)
        for number in self._later(before + 1):
            kept = tuple(self.before_forward(number % (before + 1)))
            yield Moment(kept=kept, batch=self.rows, in_forward=True, number=number)
        if not self.outputs:
            return
        if before:
            new = min(self.rows_per_gather, self.samples - before * self.rows_per_gather)
            for moment in self._concat_moments(before * self.rows_per_gather, new, batch=self.rows):
                yield replace(moment, number=before)
        else:
            is_first = self.batches == 1
            kept = tuple(self._rows_while_gathering())
            yield Moment(kept=kept, batch=self.rows, in_forward=False, is_first=is_first, number=int(not is_first))

    def _later(self, group: int) -> list[int]:
        """Return the numbers of later batches that may have the peak.

        They are the last of a group, and those that find other things on the GPUs. From the last one that is followed
        on, it is the last of a group again, or the last of all.
        """
        numbers = {group - 1 or 1, *range(1, self.followed - 1)}
        if self.followed > 2:
            since = self.followed - 1
            numbers |= {since + (group - 1 - since) % group, self.batches - 1}
        return sorted(number for number in numbers if 0 < number < self.batches)

    def _rows_while_gathering(self) -> Iterator[Row]:
        """Yield the tensors that are kept while the outputs of the first batch of each GPU are gathered."""
        yield self._losses("losses of the batch", self.rows_per_gather)
        yield from _rows(self.outputs, "{} of the batch", self.rows)
        yield from _rows(self.outputs, "{} of the batch of every GPU", self.rows_per_gather)

    def _moments_on_one_gpu(self) -> Iterator[Moment]:
        full, rest = divmod(min(self.samples, self.rows * (self.steps or self.batches)), self.rows)
        if full:
            yield Moment(kept=tuple(self.before_forward(full - 1)), batch=self.rows, in_forward=True)
        if rest:
            yield Moment(kept=tuple(self.before_forward(full)), batch=rest, in_forward=True)
        last = rest or self.rows
        before = full if rest else full - 1
        if before and self.outputs:
            yield from self._concat_moments(before * self.rows, last, batch=last)

    @property
    def in_group(self) -> int:
        """The number of rows that are gathered before they are moved to the host."""
        return min(self.samples, self.rows_per_gather * (self.steps or self.batches))

    def rows_after(self, batches: int) -> int:
        """Return the number of rows of the first batches of a group."""
        return min(batches * self.rows_per_gather, self.in_group)

    def concatenations(self, batches: int) -> tuple[Moment, ...]:
        """Return the moments at which the outputs and labels of a batch are appended to those of earlier batches."""
        kept = self.rows_after(batches)
        new = self.rows_after(batches + 1) - kept
        return tuple(self._concat_moments(kept, new, batch=new if self.ranks == 1 else self.rows))

    def before_forward(self, batches: int) -> Iterator[Row]:
        """Yield the tensors that are kept while a batch runs after some batches of its group.

        They are the previous batch, and the outputs of all earlier ones.
        """
        if not batches:
            return
        yield self._losses("losses of the batch before", self.rows_per_gather)
        yield from _rows((*self.outputs, *self.labels), "{} of the batch before", self.rows_per_gather)
        if batches > 1:
            yield self._losses("gathered losses", batches * self.rows_per_gather)
            yield from _rows((*self.outputs, *self.labels), "gathered {}", batches * self.rows_per_gather)

    def _concat_moments(self, kept: int, new: int, *, batch: int) -> Iterator[Moment]:
        """Yield the moments at which outputs, and then labels, are appended to those of earlier batches."""
        several = self.ranks > 1
        batch_rows = (
            self._losses("losses of the batch", self.rows_per_gather),
            self._losses("gathered losses", kept + (new if several else self.rows)),
            *_rows(self.outputs, "{} of the batch", self.rows_per_gather if several else new),
        )
        joined_rows = tuple(_rows(self.outputs, WITH_BATCH, kept + new))
        labels = tuple(_rows(self.labels, "gathered {}", kept))
        outputs = tuple(_rows(self.outputs, "gathered {}", kept))
        yield Moment(kept=(*batch_rows, *outputs, *joined_rows, *labels), batch=batch, in_forward=False)
        if several:
            labels += tuple(_rows(self.labels, "{} of the batch of every GPU", self.rows_per_gather))
        labels += tuple(_rows(self.labels, WITH_BATCH, kept + new))
        yield Moment(kept=(*batch_rows, *joined_rows, *labels), batch=batch, in_forward=False)

    def _losses(self, name: str, rows: int) -> Row:
        return _row(name, (Dim(rows, "rows"),), "float32")

    @property
    def host_bytes(self) -> int:
        """The maximum number of bytes of arrays on the host. Outputs are moved and concatenated, and then labels."""
        if not self.outputs:
            return 0
        return max(most for before, new in self._moves for most in self._host_bytes(before, new))

    def _host_bytes(self, before: int, new: int) -> Iterator[int]:
        """Yield the bytes of arrays while rows are moved to the host, and while they are appended to earlier ones."""
        outputs, labels = (sum(output.array_bytes for output in part) for part in (self.outputs, self.labels))
        yield (outputs + labels) * before + new * _most_in_move(self.outputs)
        copies = 2 if before else 1
        yield copies * outputs * (before + new) + labels * before
        yield outputs * (before + new) + copies * labels * (before + new)

    @property
    def _moves(self) -> Iterator[tuple[int, int]]:
        """The rows on the host, and the rows that are moved, at moments that may have the most arrays."""
        most = self.rows_per_gather * (self.steps or self.batches)
        whole, rest = divmod(self.samples, most)
        yield 0, min(most, self.samples)
        if whole > 1:
            yield (whole - 1) * most, most
        if whole and rest:
            yield whole * most, rest


def _most_in_move(outputs: tuple[OfRow, ...]) -> int:
    """Return the peak bytes of a row while the outputs are copied to the host and converted one by one."""
    done = most = 0
    for output in outputs:
        most = max(most, done + output.bytes + (output.array_bytes if output.array_bytes != output.bytes else 0))
        done += output.array_bytes
    return most


def _rows(parts: tuple[OfRow, ...], name: str, rows: int) -> Iterator[Row]:
    """Return a tensor for each part. In its name, the name of the part replaces the braces."""
    return (_row(name.format(part.name), (Dim(rows, "rows"), *part.shape), part.dtype) for part in parts)


def _row(name: str, shape: Shape, dtype: DType) -> Row:
    size = allocated(prod(shape), ITEMSIZE[dtype])
    return Row.build(name=name, count=1, bytes=size, shape=shape, dtype=dtype, source=SOURCE)
