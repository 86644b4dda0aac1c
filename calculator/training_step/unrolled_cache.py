"""A cache of the unrolled micro-batches that replays use."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from calculator.engine.kinds import numbered
from calculator.engine.sym_sizes import SymSizes
from calculator.inputs.size_settings import sizes
from calculator.training_step.size_cache import SizeCache, settings_of
from calculator.training_step.unrolled import Unrolled, unrolled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from calculator.architecture.model import Model
    from calculator.engine.symbolic_sizes import ShapeEnv
    from calculator.methods.prepared_model import PreparedModel

#: The unrolled micro-batches that are cached: the first of a step, those after it, and the last if it differs.
MICRO_BATCHES = 3


class UnrolledCache:
    """The unrolled micro-batches of the most recent model and settings, for all sizes, and the last step under ZeRO."""

    __slots__ = ("_by_settings", "_model", "_step", "_traces_first")

    def __init__(self, *, traces_first: bool = False) -> None:
        self._traces_first = traces_first
        self._model: Model | None = None
        self._by_settings: dict[tuple[object, ...], SizeCache[Unrolled]] = {}
        self._step: _Step | None = None

    def micro_batch(self, prepared: PreparedModel, *, reduces: bool = True) -> Unrolled:
        """Return the unrolled micro-batch of a request.

        `reduces`: whether it is the last of its step.
        """
        settings = (*settings_of(prepared), reduces)
        cached = self._by_settings
        if prepared.model is not self._model or (settings not in cached and len(cached) >= MICRO_BATCHES):
            self._model = prepared.model
            cached.clear()
        by_sizes = cached.setdefault(settings, SizeCache(traces_first=self._traces_first))
        plain, traced = partial(unrolled, reduces=reduces), partial(UnrolledTrace, reduces=reduces)
        return by_sizes.result(prepared, plain, traced) or plain(prepared)

    def for_step(self, prepared: PreparedModel, listed: Callable[[], Unrolled]) -> Unrolled:
        """Return the step of a request under ZeRO, which `listed` lists as one micro-batch.

        A step with the events of the last one, for other sizes, shares what depends on its events alone.
        """
        device, last = prepared.device, self._step
        settings = prepared.model, *settings_of(prepared), device.count, device.nodes
        own = [*sizes(prepared.given), *sizes(prepared.method)]
        if last is None or last.settings != settings:
            last = self._step = _Step(settings, own, listed())
        elif last.sizes != own:
            last = self._step = _Step(settings, own, _sharing(listed(), last.unrolled))
        return last.unrolled

    def drop_step(self) -> None:
        """Drop the step, which takes more memory than everything else."""
        self._step = None


class _Step(NamedTuple):
    """The step of a request under ZeRO, with the request's model and settings, and its sizes."""

    settings: tuple[object, ...]
    sizes: list[int]
    unrolled: Unrolled


def _sharing(own: Unrolled, other: Unrolled) -> Unrolled:
    """Return a micro-batch that shares what depends on its events alone with another one, if both have the same."""
    is_alike = own.forward == other.forward and own.backward == other.backward and own.streams == other.streams
    return replace(own, known=other.known) if is_alike else own


class UnrolledTrace:
    """An unrolled micro-batch with symbolic sizes.

    Its rows have no shapes, because a replay needs none.
    """

    __slots__ = ("_kinds", "_row_numbers", "_shape_env", "_unrolled")

    def __init__(self, shape_env: ShapeEnv, prepared: PreparedModel, *, reduces: bool = True) -> None:
        self._shape_env = shape_env
        self._unrolled = unrolled(prepared, reduces=reduces, symbols=SymSizes(shape_env))
        by_identity = {id(row): row for row in self._unrolled.rows}
        identities, self._row_numbers = numbered(map(id, self._unrolled.rows))
        #: Each kind, with the index of its size. All rows of a kind are one object.
        self._kinds = [by_identity[identity] for identity in identities]
        shape_env.eliminate_dead_code({kind[4] for kind in self._kinds})

    def with_sizes(self, sizes: Sequence[int]) -> Unrolled | None:
        """Return the micro-batch with other sizes, or None if a guard fails."""
        values = self._shape_env.evaluate(sizes)
        if values is None:
            return None
        kinds = [(name, (), dtype, component, values[size]) for name, _, dtype, component, size in self._kinds]
        unrolled = self._unrolled
        return Unrolled(
            rows=[*map(kinds.__getitem__, self._row_numbers)],
            forward=unrolled.forward,
            backward=unrolled.backward,
            base=unrolled.base,
            stride=unrolled.stride,
            copies=unrolled.copies,
            products=unrolled.products,
            streams=unrolled.streams,
            known=unrolled.known,
        )
