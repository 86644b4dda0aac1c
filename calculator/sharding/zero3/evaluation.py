"""The weights that stage 3 gathers in the batches of an evaluation, which follows a training step.

The order of modules that the training recorded continues with a backward pass. At the end of a batch, weights are
prefetched for that pass. The next batch drops them, except those that it uses soon and finds gathered.

Sources: deepspeed/runtime/zero/parameter_offload.py (_start_of_forward_hook) and partitioned_param_coordinator.py
(reset_step).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from calculator.engine import module_calls
from calculator.sharding.zero3.copies import WRAPPED, substitutes_of
from calculator.sharding.zero3.followed import Followed
from calculator.sharding.zero3.gathering import Gathering
from calculator.sharding.zero3.program import Program

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from calculator.engine.memory_curve import Window
    from calculator.engine.repetition import Repetition
    from calculator.engine.tape import Tape
    from calculator.sharding.zero3.parameters import Module
    from calculator.sharding.zero3.segment import Event
    from calculator.sharding.zero3.state import PartitionedState
    from calculator.sharding.zero3.track import Moment


class Batch(NamedTuple):
    """The bytes that a batch finds gathered, and what it gathers and releases."""

    gathered_before: int
    moments: list[Moment]

    @property
    def gathered_at_end(self) -> int:
        """The bytes that it leaves gathered."""
        return self.moments[-1].after if self.moments else self.gathered_before


class EvaluationGathering(Gathering):
    """The batches of an evaluation after training steps. All layers are followed."""

    def batches(self, tapes: Sequence[Tape], count: int) -> list[list[Batch]]:
        """Return the weights that each pass gathers in the first batches of an evaluation.

        The tapes have all layers.
        """
        self._references.free_graphs()
        events = [[*_events(tape, self.program)] for tape in tapes]
        return [[*map(self._batch, events)] for _ in range(count)]

    def _batch(self, events: list[Event]) -> Batch:
        self._live.reset()
        before = self._live.bytes
        return Batch(before, self._moments(events))


def evaluation_gathering(
    state: PartitionedState, tape: Tape, repetition: Repetition, windows: Sequence[Window]
) -> EvaluationGathering:
    """Return the gathers of an evaluation after a training whose micro-batch is on the tape."""
    followed = Followed(repetition=repetition, before=repetition.copies + 1, skipped=0)
    parameters = state.parameters(followed)
    return EvaluationGathering(
        Program(tape, windows, followed, [*parameters.own, *parameters.second], substitutes_of(state.prepared)),
        followed,
        parameters,
        (state.sizes, state.sizes_of_second),
        state.prepared.training.gradient_accumulation_steps,
        keeps_loss=state.prepared.training.trainer is None,
    )


def _events(tape: Tape, program: Program) -> Iterator[Event]:
    """Yield the calls of a batch in which every layer is interpreted, with the modules of the training."""
    layer: int | None = None
    model, inside = "", False
    for position, label in tape.marks:
        if label.startswith(module_calls.NO_GRAD):
            model, inside = label.removeprefix(module_calls.NO_GRAD), True
        elif label == module_calls.NO_GRAD_ENDS:
            model, inside = "", False
        _, is_layer, rest = label.partition("layer ")
        if is_layer and rest.endswith(" forward"):
            layer = int(rest.split()[0])
            continue
        kind, _, text = label.partition(": ")
        kind += ": "
        if kind in (module_calls.PINNED, module_calls.UNPINNED):
            serial, name = text.split(maxsplit=1)
            yield position, kind, None, program.by_name[name, layer if "*" in name else None], serial
        elif kind in (module_calls.BEFORE_FORWARD, module_calls.AFTER_FORWARD):
            for module in _called(program, (model + text, layer), kind, wraps=inside > bool(model)):
                yield position, kind, module, None, ""


def _called(program: Program, name: tuple[str, int | None], kind: str, *, wraps: bool) -> list[Module]:
    """Return a module with what it calls: a copy, or what an adapter's layer calls if adapters are disabled."""
    path, layer = name
    paths = program.substitutes.called(path, without_adapters=wraps)
    if wraps and len(paths) == 1 and (f"{path}.{WRAPPED}", layer) in program.modules:
        paths = path, f"{path}.{WRAPPED}"
    called = [program.module(called_path, layer if "*" in called_path else None) for called_path in paths]
    return called if kind == module_calls.BEFORE_FORWARD else called[::-1]
