"""A device module for meta, as `torch.cuda` is for CUDA: streams and events that only have names."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterator


class Event:
    """An event that has always happened."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def record(self, *_: Any) -> None:
        """Record nothing."""

    wait = synchronize = record

    def query(self) -> bool:
        """Return whether the event happened."""
        return True


class Stream:
    """A stream with a number, and a name if a library gives it one; 0 is the default stream."""

    _created: ClassVar[int] = 0

    def __init__(self, *_: Any, **__: Any) -> None:
        type(self)._created += 1
        self.number = type(self)._created
        self.device = None
        # FSDP2 of PyTorch 2.15 tells an operator the stream that reads a gradient; for CUDA it does nothing.
        # Source: torch/distributed/fsdp/_fully_shard/_fsdp_collectives.py, record_grad_output_stream.
        self.stream_id, self.device_index, self.device_type = self.number, 0, 0
        #: The name in a trace; empty for the default stream.
        self.name = f"stream {self.number}" if self.number else ""

    def wait_event(self, *_: Any) -> None:
        """Wait for nothing."""

    wait_stream = synchronize = wait_event

    def record_event(self, *_: Any) -> Event:
        """Return an event on this stream."""
        return Event()

    def query(self) -> bool:
        """Return whether all work is done."""
        return True


_Stream = Stream


def name_streams(owner: object) -> None:
    """Give the streams of an object the names of its attributes."""
    for name, value in vars(owner).items():
        if isinstance(value, Stream) and value.number:
            value.name = name


class Streams:
    """The streams of a process, with the functions of `torch.cuda` that the libraries call."""

    Event = Event
    Stream = Stream

    def __init__(self) -> None:
        Stream._created = -1
        self._default = Stream()
        self._current = self._default

    def current_stream(self, *_: Any) -> _Stream:
        """Return the stream that operations run on now."""
        return self._current

    def current_name(self) -> str:
        """Return the name of the current stream in a trace."""
        return self._current.name

    def default_stream(self, *_: Any) -> _Stream:
        """Return the default stream."""
        return self._default

    def current_device(self) -> int:
        """Return the index of the one device."""
        return 0

    def device_count(self) -> int:
        """Return the number of devices of a process."""
        return 1

    def is_available(self) -> bool:
        """Return whether there is a device."""
        return True

    def synchronize(self, *_: Any) -> None:
        """Wait for nothing."""

    set_device = empty_cache = synchronize

    @contextmanager
    def stream(self, stream: _Stream | None) -> Iterator[None]:
        """Run what is inside the context on a stream."""
        outer = self._current
        self._current = stream or outer
        try:
            yield
        finally:
            self._current = outer
