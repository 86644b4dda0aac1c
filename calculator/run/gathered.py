"""What the Trainer's evaluation keeps from batch to batch: losses, logits and labels, concatenated.

Source: transformers 5.24, trainer.py (evaluation_loop, prediction_step) and trainer_pt_utils.py (EvalLoopContainer,
nested_concat, nested_numpify).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from calculator.architecture.dimension import Dim, Shape, named
from calculator.common.dtype import ITEMSIZE, DType, allocated
from calculator.estimation.answer import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = "transformers/trainer.py, evaluation_loop; trainer_pt_utils.py, nested_concat"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What the loop keeps at a moment, besides the batch, the rows of the batch, and whether the model runs then.

    `is_first`: whether no batch ran before.
    """

    kept: tuple[Row, ...]
    batch: int
    in_forward: bool
    is_first: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """The loop of an evaluation.

    Attributes:
        rows: The rows of a batch.
        samples: Those of the evaluation set.
        steps: The batches after which what was gathered is moved to the host; None for all.
        logits: The shape of one row's logits and their dtype; None if they are not gathered.
        length: The tokens of a row.
        ranks: The GPUs, each of which runs a batch and gathers those of all. Batches are full on several: rows of the
            first are repeated (accelerate 1.15, data_loader.py, BatchSamplerShard).
    """

    rows: int
    samples: int
    steps: int | None
    logits: tuple[Shape, DType] | None
    length: int
    ranks: int = 1

    @property
    def together(self) -> int:
        """The rows that are gathered at a time."""
        return self.rows * self.ranks

    @property
    def batches(self) -> int:
        """The batches of the evaluation, on each GPU."""
        return -(-self.samples // self.together)

    def moments(self) -> Iterator[Moment]:
        """The moments that may be the peak: in the first group, the last forward passes and the last concatenation."""
        yield from self._on_one_gpu() if self.ranks == 1 else self._on_several()

    def _on_several(self) -> Iterator[Moment]:
        before = min(self.steps or self.batches, self.batches) - 1
        yield Moment(kept=(), batch=self.rows, in_forward=True, is_first=True)
        if self.batches > 1:
            yield Moment(kept=tuple(self._before_forward(before)), batch=self.rows, in_forward=True)
        if self.logits is None:
            return
        if before:
            new = min(self.together, self.samples - before * self.together)
            yield Moment(kept=tuple(self._in_concat(before * self.together, new)), batch=self.rows, in_forward=False)
        else:
            yield Moment(kept=tuple(self._in_gather()), batch=self.rows, in_forward=False)

    def _in_gather(self) -> Iterator[Row]:
        """What is kept while the logits of the first batch of each GPU are gathered."""
        yield self._losses("losses of the batch", self.together)
        yield self._logits("logits of the batch", self.rows)
        yield self._logits("logits of the batch of every GPU", self.together)

    def _on_one_gpu(self) -> Iterator[Moment]:
        full, rest = divmod(min(self.samples, self.rows * (self.steps or self.batches)), self.rows)
        if full:
            yield Moment(kept=tuple(self._before_forward(full - 1)), batch=self.rows, in_forward=True)
        if rest:
            yield Moment(kept=tuple(self._before_forward(full)), batch=rest, in_forward=True)
        last = rest or self.rows
        before = full if rest else full - 1
        if before and self.logits is not None:
            yield Moment(kept=tuple(self._in_concat(before * self.rows, last)), batch=last, in_forward=False)

    def _before_forward(self, batches: int) -> Iterator[Row]:
        """What is kept while a batch runs after some of its group: that of the batch before, and of all before it."""
        if not batches:
            return
        yield self._losses("losses of the batch before", self.together)
        if self.logits is not None:
            yield self._logits("logits of the batch before", self.together)
            yield self._labels("labels of the batch before", self.together)
        if batches > 1:
            yield self._losses("gathered losses", batches * self.together)
            if self.logits is not None:
                yield self._logits("gathered logits", batches * self.together)
                yield self._labels("gathered labels", batches * self.together)

    def _in_concat(self, kept: int, new: int) -> Iterator[Row]:
        """What is kept while the logits of a batch are added to those of the batches before."""
        several = self.ranks > 1
        yield self._losses("losses of the batch", self.together)
        yield self._losses("gathered losses", kept + (new if several else self.rows))
        yield self._logits("gathered logits", kept)
        yield self._logits("logits of the batch", self.together if several else new)
        yield self._logits("gathered logits with the batch", kept + new)
        yield self._labels("gathered labels", kept)

    def _logits(self, name: str, rows: int) -> Row:
        assert self.logits is not None
        shape, dtype = self.logits
        return _row(name, (Dim(rows, "rows"), *shape), dtype)

    def _labels(self, name: str, rows: int) -> Row:
        return _row(name, (Dim(rows, "rows"), named(self.length, "S")), "int64")

    def _losses(self, name: str, rows: int) -> Row:
        return _row(name, (Dim(rows, "rows"),), "float32")

    @property
    def host_bytes(self) -> int:
        """The most bytes of arrays on the host: NumPy has no bfloat16, so that its logits become float32."""
        if self.logits is None:
            return 0
        shape, dtype = self.logits
        given = prod(shape) * ITEMSIZE[dtype]
        array = prod(shape) * 4 if dtype == "bfloat16" else given
        label = self.length * ITEMSIZE["int64"]
        return max(
            array * before
            + max(new * (given + array if array != given else given), (array * (2 * new + before)) if before else 0)
            + label * before
            for before, new in self._moves
        )

    @property
    def _moves(self) -> Iterator[tuple[int, int]]:
        """The rows that are on the host, and those that are moved, at moments that may have the most arrays."""
        most = self.together * (self.steps or self.batches)
        whole, rest = divmod(self.samples, most)
        yield 0, min(most, self.samples)
        if whole > 1:
            yield (whole - 1) * most, most
        if whole and rest:
            yield whole * most, rest


def _row(name: str, shape: Shape, dtype: DType) -> Row:
    size = allocated(prod(shape), ITEMSIZE[dtype])
    return Row(name=name, count=1, bytes=size, shape=shape, dtype=dtype, source=SOURCE)
