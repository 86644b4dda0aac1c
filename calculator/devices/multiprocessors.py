"""The multiprocessors of a GPU, by which CUDA kernels split their work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calculator.devices.gpus import GPU

#: The threads that a multiprocessor runs at most, by compute capability. Those that are not listed run 2,048.
#: Source: CUDA C++ Programming Guide, technical specifications per compute capability.
_THREADS = {"7.5": 1024, "8.6": 1536, "8.7": 1536, "8.9": 1536, "11.0": 1536, "12.0": 1536, "12.1": 1536}


@dataclass(frozen=True, slots=True, kw_only=True)
class Multiprocessors:
    """The number of multiprocessors, and the threads that each runs at most. The defaults are those of an A100.

    `assumed`: whether they are those of an A100 because the number of the GPU is unknown.
    """

    count: int = 108
    threads: int = 2048
    assumed: bool = True


#: The multiprocessors that are assumed if no GPU is named.
ASSUMED = Multiprocessors()


def multiprocessors_of(card: GPU | None) -> Multiprocessors:
    """Return the multiprocessors of a GPU. If none is named or their number is unknown, it is that of an A100."""
    if card is None or card.compute_capability is None:
        return ASSUMED
    threads = _THREADS.get(card.compute_capability, 2048)
    if card.multiprocessors is None:
        return Multiprocessors(threads=threads)
    return Multiprocessors(count=card.multiprocessors, threads=threads, assumed=False)
