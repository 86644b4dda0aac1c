"""The storages of gathered weights that views and the graphs of losses refer to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import module_calls

if TYPE_CHECKING:
    from calculator.sharding.zero.parameters import Key
    from calculator.sharding.zero3.parameters import Partitioned, Storage

    #: The number of a view, and the parameter that it is a view of.
    Pin = tuple[str, Partitioned]


class References:
    """The references of the views and of the graph of the last loss in a micro-batch, and of the loss before.

    `backward` is the position on the tape at which the backward pass begins.
    """

    def __init__(self, backward: int) -> None:
        self.backward = backward
        #: The storages that views refer to, and the views that recomputations created.
        self._pins: dict[Pin, Storage] = {}
        self._recomputed: dict[Pin, None] = {}
        #: The storages that the graph of the last loss refers to, and those that the graph of the loss before refers
        #: to.
        self._graph: list[Storage] = []
        self.previous_graph: list[Storage] = []

    @property
    def has_views(self) -> bool:
        """Whether views are alive."""
        return bool(self._pins)

    @property
    def recomputed(self) -> frozenset[Key]:
        """The parameters that views refer to which recomputations created."""
        return frozenset(parameter.key for _, parameter in self._recomputed)

    def begin(self, backward: int) -> None:
        """Begin a micro-batch, whose loss has a graph of its own."""
        self.backward = backward
        self._graph, self.previous_graph = [], self._graph

    def update(self, position: int, kind: str, parameter: Partitioned, serial: str) -> None:
        """Add or drop a reference: of a view, whose number is `serial`, or of the graph of a loss."""
        if kind == module_calls.UNPINNED:
            pin = serial, parameter
            pinned = self._pins.pop(pin, None)
            self._recomputed.pop(pin, None)
            if pinned is not None:
                pinned.drop()
        elif parameter.storage is None:
            return
        elif kind == module_calls.PINNED:
            parameter.storage.references += 1
            pin = serial, parameter
            self._pins[pin] = parameter.storage
            if position > self.backward:
                self._recomputed[pin] = None
        elif position <= self.backward:
            parameter.storage.references += 1
            self._graph.append(parameter.storage)

    def drop_views(self) -> None:
        """Drop views that layers have passed on to others: the micro-batch's own objects are freed with its graph."""
        for pinned in self._pins.values():
            pinned.drop()
        self._pins.clear()
        self._recomputed.clear()

    def free_graph(self) -> None:
        """Free the graph of the last loss."""
        _free(self._graph)

    def free_graphs(self) -> None:
        """Free the graphs of all losses."""
        self.free_graph()
        self.free_previous_graph()

    def free_previous_graph(self) -> None:
        """Free the graph of the loss before the last, which the last one replaces."""
        _free(self.previous_graph)


def _free(graph: list[Storage]) -> None:
    for storage in graph:
        storage.drop()
    graph.clear()
