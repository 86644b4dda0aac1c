"""Random requests to the caching allocator, with settings of PYTORCH_CUDA_ALLOC_CONF and a capacity."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Literal, NamedTuple

from calculator.allocator.alloc_conf import DEFAULT, AllocConf, parse_alloc_conf

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20
#: What a process sets: nothing that stays, blocks that are not split, or a fraction of the memory with a threshold. A
#: setting of the latter two cannot be taken back in a process.
Kind = Literal["unlimited splits", "limited splits", "fraction"]
KINDS: tuple[Kind, ...] = ("unlimited splits", "limited splits", "fraction")
#: The numbers of requests and frees of a stream.
_LENGTHS = (60, 300, 1500)


class Event(NamedTuple):
    """A request of some bytes on a stream, or the free of an earlier request, whose `size` is 0."""

    row: int
    size: int = 0
    stream: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestStream:
    """Requests and frees in order, the settings and the bytes that the device offers the allocator."""

    seed: int
    events: tuple[Event, ...]
    streams: int
    settings: str
    conf: AllocConf
    capacity: int


def request_stream(
    seed: int, kind: Kind, total: int, needed: Callable[[tuple[Event, ...], AllocConf], int]
) -> RequestStream:
    """Draw a stream.

    `total` is the most that the allocator can get from the device. `needed` returns what it reserves for events
    without a limit, near which the capacity and the fraction are drawn.
    """
    rng = Random(seed)
    streams = rng.choice((1, 1, 2, 3))
    events = tuple(_events(rng, streams))
    settings = ",".join(_settings(rng, kind))
    conf = parse_alloc_conf(settings) if settings else DEFAULT
    reserved = needed(events, conf)
    capacity = (
        total if rng.random() < 0.2 else min(total, int(reserved * rng.uniform(0.5, 1.2)) // 4096 * 4096 or total)
    )
    if kind == "fraction":
        conf = replace(conf, per_process_memory_fraction=min(0.99, reserved * rng.uniform(0.5, 1.5) / total))
    return RequestStream(seed=seed, events=events, streams=streams, settings=settings, conf=conf, capacity=capacity)


def _events(rng: Random, streams: int) -> list[Event]:
    sizes = [_size(rng) for _ in range(rng.choice((3, 8, 30)))]
    growing, live, events = rng.choice((0.5, 0.55, 0.6)), list[int](), list[Event]()
    for row in range(rng.choice(_LENGTHS)):
        if live and rng.random() > growing:
            events.append(Event(live.pop(rng.choice((0, -1, rng.randrange(len(live)))))))
        else:
            size = rng.choice(sizes) if rng.random() < 0.8 else _size(rng)
            events.append(Event(row, size, rng.randrange(streams)))
            live.append(row)
    return events


def _size(rng: Random) -> int:
    kind = rng.random()
    if kind < 0.4:
        return rng.randrange(1, MIB + 2)
    if kind < 0.7:
        return rng.randrange(MIB, 12 * MIB)
    if kind < 0.9:
        return rng.choice((1, 2, 3, 5, 10, 16, 20, 32)) * MIB
    return rng.randrange(10 * MIB, 120 * MIB)


def _settings(rng: Random, kind: Kind) -> list[str]:
    expandable = rng.random() < 0.35
    settings = ["expandable_segments:True"] if expandable else []
    if kind != "unlimited splits" and not expandable and rng.random() < 0.6:
        settings.append(f"max_split_size_mb:{rng.choice((21, 32, 64, 128))}")
    if rng.random() < 0.25:
        settings.append("roundup_power2_divisions:" + rng.choice(("4", "8", "[1:8,4:4,64:2,>:1]")))
    if kind == "fraction":
        settings.append(f"garbage_collection_threshold:{rng.choice((0.3, 0.6, 0.8))}")
    return settings
