"""Steps of histories that begin in a state in which the same step was played before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.allocator.machines import FlatMachine

if TYPE_CHECKING:
    from collections.abc import Hashable

    from calculator.allocator.history import History, Step


class PlayedSteps:
    """The steps that a run's histories have played on one device.

    The same step in the same state leaves the same state, so it is played once.

    Attributes:
        repeated: The number of steps that were not played again.
    """

    def __init__(self) -> None:
        #: Each step's history at its end, by the step and the state in which it began.
        self._ends: dict[Hashable, History] = {}
        self.repeated = 0

    def play(self, history: History, step: Step) -> None:
        """Play the next step of a history, unless its end is known."""
        machine = history.machine
        assert isinstance(machine, FlatMachine)
        history.set_gradients_to_none()
        history.close_gaps(machine)
        empties = history.empty_cache is not None and history.empty_cache.in_step(history.steps)
        key = step, empties, min(history.steps, 2), machine.state(), *history.left
        if key in self._ends:
            self.repeated += 1
            self._repeat(history, self._ends[key])
            return
        history.play(step)
        self._ends[key] = history.on_machine(machine.copied())

    @staticmethod
    def _repeat(history: History, ended: History) -> None:
        """Give a history the end of another one's step."""
        assert isinstance(ended.machine, FlatMachine)
        reserved, retries = [*history.reserved, ended.reserved[-1]], [*history.retries, ended.retries[-1]]
        vars(history).update(vars(ended), steps=history.steps + 1, reserved=reserved, retries=retries)
        history.machine = ended.machine.copied()
