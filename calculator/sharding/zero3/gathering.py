"""The weights that stage 3 gathers in the steps of a run, from the first step to a step in the steady state.

Which parameters are gathered only depends on their sizes and on the order of modules. Some copies of the repeated
layers are followed one by one. The skipped copies behave like the last one before them and the first one after them, if
all of them leave the same state relative to their position. Otherwise, more copies are followed.
"""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from math import inf
from typing import TYPE_CHECKING, Literal

from calculator.engine import module_calls
from calculator.engine.autograd import GRADIENT_OF
from calculator.sharding.zero3.coordinator import Coordinator
from calculator.sharding.zero3.parameters import CAST, Live
from calculator.sharding.zero3.program import FETCHES, NO_GRAD_FORWARD
from calculator.sharding.zero3.recorded_copies import RecordedCopies, RecordedRun
from calculator.sharding.zero3.references import References
from calculator.sharding.zero3.steady import Steady
from calculator.sharding.zero3.track import Moment, Track, with_more
from calculator.sharding.zero3.unread import Unread
from calculator.sharding.zero3.used_elements import used

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Sequence

    from calculator.sharding.zero.parameters import Key
    from calculator.sharding.zero3.followed import Followed
    from calculator.sharding.zero3.parameters import Module, Parameters
    from calculator.sharding.zero3.program import Program
    from calculator.sharding.zero3.recorded_calls import RecordedCopy
    from calculator.sharding.zero3.segment import Event, Segment
    from calculator.sharding.zero3.sizes import Sizes

#: The number of micro-batches of a step that differ, and that of a step whose first one does more than the others.
MICRO_BATCHES, WITH_LONGER_FIRST = 3, 4

#: How the weights that vLLM reads are gathered: TRL merges adapters into all of them at once.
Syncs = Literal["one by one", "all at once"]


class Gathering:
    """The weights that a run gathers in the micro-batches of a step in the steady state.

    `keeps_loss`: whether the loop refers to the loss, and so to its graph, until the next loss. A trainer does so until
    the optimizer's step has ended, which is part of the last backward pass. `generates`: whether each step begins with
    `generate`, for which TRL gathers all weights, and `syncs` how it gathers them for vLLM. `first` is the first of
    several micro-batches where it does more than the others: each of its no-grad runs is of the rows of one
    micro-batch after the other.
    """

    def __init__(
        self,
        program: Program,
        followed: Followed,
        parameters: Parameters,
        sizes: tuple[Sizes, Sizes],
        micro_batches: int,
        *,
        keeps_loss: bool,
        generates: bool = False,
        syncs: Syncs | None = None,
        first: Program | None = None,
    ) -> None:
        self.program, self.followed, self.first = program, followed, first
        #: The micro-batch that runs, and the one that runs every model of the step.
        self._running_program, self._longest = program, first or program
        self._roots = self._longest.root, self._longest.second_root
        self._live = self._started()
        self._coordinator = Coordinator(sizes[0], self._live, parameters.own)
        #: The coordinator of a second model, and the coordinator of the model that is running.
        self._second = Coordinator(sizes[1], self._live, parameters.second)
        self._running = self._coordinator
        self._references = References(program.backward)
        self._recorded_copies = RecordedCopies(program.backward)
        self._unread = Unread(self._longest.modules.values() if self._longest.runs > 1 else ())
        self._keeps_loss, self._generates, self._syncs = keeps_loss, generates, syncs
        #: The bytes of gathered weights while the trainer generates, and the most while vLLM reads them.
        self.in_generation = self.in_sync = 0
        #: The bytes of offloaded partitions that are copied to the GPU while weights are gathered to generate.
        self.copied = 0
        #: Whether the skipped copies behave like those next to them.
        self.is_steady = True
        #: The weights that each segment gathers, in each micro-batch of the last step.
        self.passes: list[list[Track]] = []
        #: The maximum number of bytes that are gathered when the optimizer's step begins.
        self.at_step = 0
        #: The bytes of gathered weights that stay alive throughout that step.
        self.kept = 0
        #: The bytes that a step's all-gathers result in.
        self.sent = 0
        self._run(micro_batches)
        #: The maximum number of bytes alive while persistent parameters are gathered after the step.
        self.persistent = self._live.most

    def _started(self) -> Live:
        """Return the counter of the bytes of gathered weights."""
        return Live()

    def _run(self, micro_batches: int) -> None:
        """Run steps from the first one up to one that is like all later ones.

        The second step is like all later ones, with two exceptions: the graph of the previous loss keeps what was
        gathered then, or a second model keeps parameters that the first recorded order releases. A model that also runs
        without its adapters drops each recorded order.
        """
        program = self.program
        most = MICRO_BATCHES if self.first is None else WITH_LONGER_FIRST
        count = min(most, micro_batches)
        longer = self._longest.second_root is not None or program.keeps
        is_single = count == 1 and program.runs == 1 and not self._generates
        started = 0
        for step in range(2 + longer):
            self.sent = 0
            if step == 0 and is_single:
                self._record()
            else:
                started = self._live.bytes
                # In the first step, the order of modules is known after a micro-batch, and what is released after two.
                is_alike = program.runs == 1 and self.first is None
                is_enough = step == 0 and self._reuses and is_alike and not program.keeps
                self._micro_batches(min(count, 2) if is_enough else count, micro_batches)
            if not self.is_steady:
                return
            self._end_step()
            if step == 1 and is_single and self._reuses:
                kept = self._live.bytes - started if self._keeps_loss else 0
                self.passes = [[*with_more(self.passes[0], kept, self.program.backward)]]
                return

    @property
    def _reuses(self) -> bool:
        """Whether a micro-batch with the initial state of an earlier one reuses its result.

        A graph may keep more in it.
        """
        return not self._references.has_views and self.program.second_root is None

    @cached_property
    def _knows_calls(self) -> bool:
        """Whether all passes of the only model call its modules in the same way, and no call replaces weights."""
        is_alone = self.program.runs == 1 and self.first is None and self.program.second_root is None
        return is_alone and not any(map(CAST, self._coordinator.parameters))

    def _record(self) -> None:
        """Run a first step of one micro-batch, of which only the order of modules matters."""
        models = (self._coordinator,) if self.program.second_root is None else (self._coordinator, self._second)
        for coordinator in models:
            is_second_model = coordinator is self._second
            modules: list[Module] = []
            skipped = []
            for segment in self.program.segments:
                own = [module for module in segment.fetched if module.in_second_model is is_second_model]
                modules += own
                if segment.skipped and own:
                    skipped.append((len(modules), used(own).times(segment.skipped)))
            coordinator.order.record(modules, skipped)

    def _micro_batches(self, count: int, micro_batches: int) -> None:
        self.passes = []
        state_key: Hashable = None
        sent = 0
        for number in range(count):
            before, previous_key = self._gathered_bytes, state_key
            if not self._keeps_loss:
                self._references.free_graph()
            if number == 0:
                self._complete()
            state_key = self._coordinator.state_key() if number and self._reuses and not self.program.keeps else None
            if state_key is not None and state_key == previous_key:
                self.passes.append(self.passes[-1])
            else:
                program = self.first if number == 0 and self.first is not None else self.program
                self.passes.append(self._pass(program, micro_batches))
                sent = self._gathered_bytes - before
            if not self.is_steady:
                return
            alike = 1 + micro_batches - count if number == count - 2 else 1
            self.sent += alike * sent

    def _complete(self) -> None:
        """Gather the weights for what generates completions, if a step begins with any, and partition them again."""
        live, coordinator = self._live, self._coordinator
        if self._generates:
            live.reset()
            coordinator.gather_all()
            self.in_generation, self.copied = live.bytes, live.most - live.bytes
            coordinator.partition_all()
        elif self._syncs is not None:
            live.reset()
            coordinator.read_whole(one_by_one=self._syncs == "one by one")
            self.in_sync = live.most

    @property
    def _gathered_bytes(self) -> int:
        return self._coordinator.sent + self._second.sent

    def _end_step(self) -> None:
        live, coordinator = self._live, self._coordinator
        live.reset()
        coordinator.release_all()
        self.at_step, self.kept = live.most, live.bytes
        before = coordinator.sent
        live.reset()
        coordinator.gather_persistent()
        self.sent += coordinator.sent - before

    def _pass(self, program: Program, micro_batches: int) -> list[Track]:
        """Run a micro-batch.

        In a step's first one, a no-grad run is repeated for the rows of each micro-batch.
        """
        self._running_program = program
        self._references.begin(program.backward)
        tracks: list[Track] = []
        *no_grad, last = program.model_runs
        for number, segments in enumerate(no_grad):
            self._unread.read(segments)
            tracks += self._no_grad(number, segments, micro_batches if program is self.first else 1)
        self._unread.read(last)
        tracks += self._run_model(last)
        self._live.in_copies, self._live.position = False, program.end
        self._live.reset()
        self._references.drop_views()
        self._coordinator.end_backward()
        self.is_steady = self.is_steady and not (self._coordinator.is_apart or self._second.is_apart)
        return tracks

    def _no_grad(self, number: int, segments: Sequence[Segment], times: int) -> Iterator[Track]:
        """Run a model for the rows of one micro-batch after the other, of which those in the middle are equal."""
        most = WITH_LONGER_FIRST
        for turn in range(min(most, times)):
            is_last = turn == min(most, times) - 1
            represents_others = times > most and turn == most - 2
            before = self._gathered_bytes
            for track in self._run_model(segments):
                yield track._replace(
                    run=number, rows_left=0 if is_last else 1 if represents_others else times - 1 - turn
                )
            if represents_others:
                self._running.sent += (times - most) * (self._gathered_bytes - before)

    def _run_model(self, segments: Sequence[Segment]) -> list[Track]:
        tracks: list[Track] = []
        steady = Steady(self)
        for segment in segments:
            self._live.in_copies = segment.copy is not None
            running = self._running
            before, at, sent, available = self._live.bytes, running.order.place, running.sent, running.available
            limited, running.slack = running.limited, inf
            moments = self._follow(segment)
            tracks.append(Track(segment, before, self._live.bytes, moments))
            if segment.copy is not None:
                slack = -inf if running.limited > limited and running.available < available else running.slack
                steady.compare(tracks[-1], running.sent - sent, running.available - available, slack)
                if not steady.all_equal:
                    self.is_steady = False
                    return tracks
            if segment.skipped:
                count = segment.skipped
                self._live.bytes += count * (self._live.bytes - before)
                running.sent += count * (running.sent - sent)
                kept = count * (running.available - available)
                running.skip(running.order.used_since(at).times(count), kept)
        return tracks

    def _moments(self, events: list[Event], active: Sequence[int] | None = None) -> list[Moment]:
        live, references, backward = self._live, self._references, self._running_program.backward
        moments: list[Moment] = []
        for number in range(len(events)) if active is None else active:
            position, kind, module, parameter, serial = events[number]
            live.position = position
            if references.previous_graph and position > backward:
                # The loss of the forward pass that has ended replaces the previous loss.
                before = live.bytes
                references.free_previous_graph()
                moments.append(Moment(backward, before, live.bytes, is_event=False, number=number))
            if module is not None:
                before = live.most = live.bytes
                coordinator = self._running = self._second if module.in_second_model else self._coordinator
                if kind == module_calls.BEFORE_BACKWARD:
                    coordinator.fetch(module, backward=True)
                elif kind == module_calls.AFTER_BACKWARD:
                    coordinator.release(module, backward=True)
                elif kind == module_calls.AFTER_FORWARD:
                    coordinator.release(module)
                else:
                    module.stays_in_backward = kind == NO_GRAD_FORWARD
                    if module in self._roots:
                        coordinator.begin()
                    coordinator.fetch(module, recomputes=position > backward)
                    for cast in module.cast:
                        cast.replace()
            elif kind == GRADIENT_OF:
                moments.append(Moment(position, live.bytes, live.bytes, parameter, number=number))
                continue
            elif parameter is not None:
                before = live.most = live.bytes
                references.update(position, kind, parameter, serial)
            if live.most != before or live.bytes != before:
                moments.append(Moment(position, live.most, live.bytes, number=number))
        return moments

    def _recorded(self, segment: Segment) -> RecordedCopy | None:
        """Return the calls of a copy, or None if all of its events are followed."""
        frees = self._references.previous_graph and segment.end > self._running_program.backward
        return None if frees or not self._knows_calls else self._recorded_copies.recorded(segment, self._running)

    def _follow(self, segment: Segment) -> list[Moment]:
        """Run a segment, and return the moments at which the gathered bytes change."""
        recorded, running = self._recorded(segment), self._running
        if recorded is None:
            return self._moments(segment.events, segment.active)
        end = running.order.place + len(segment.fetched)
        moments = RecordedRun(running, self._live, segment.events, self._references.update).follow(recorded)
        running.order.place = end
        return moments

    def state(self, slot: int) -> Hashable:
        """Return the state that determines what is gathered next. Layers are counted from a followed copy on."""
        places = self.followed.places

        def relative(key: Key) -> Hashable:
            name, layer = key
            place = None if layer is None else places.get(layer)
            return key if place is None else (name, place[0], place[1] - slot)

        return self._running.state(relative), frozenset(map(relative, self._references.recomputed))

    def looks_ahead(self, window: int) -> bool:
        """Return whether the modules after the copies of this window are prefetched."""
        return self._running.order.looks_ahead_to(self._window_ends[window])

    @cached_property
    def _window_ends(self) -> dict[int, int]:
        """For each window, the index in the order of modules after its copies.

        An order begins where its model begins.
        """
        ends, places = {}, [0, 0]
        for segment, next_segment in pairwise(self._longest.segments):
            second = bool(segment.fetched) and segment.fetched[-1].in_second_model
            if segment.copy is None:
                for _, kind, module, _, _ in segment.events:
                    if kind in FETCHES and module is not None:
                        begins = kind != module_calls.BEFORE_BACKWARD and module in self._roots
                        places[module.in_second_model] = 1 if begins else places[module.in_second_model] + 1
            else:
                places[second] += len(segment.fetched)
            if segment.window is not None and next_segment.copy is None:
                ends[segment.window] = places[second]
        return ends
