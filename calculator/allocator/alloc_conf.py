"""PYTORCH_CUDA_ALLOC_CONF: the settings of PyTorch's CUDA caching allocator, parsed in the spelling of the variable.

Source: PyTorch 2.13, c10/core/AllocatorConfig.h and .cpp (AcceleratorAllocatorConfig::parseArgs),
c10/cuda/CUDAAllocatorConfig.h and .cpp (CUDAAllocatorConfig::parseArgs).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from calculator.allocator.segments import BLOCK, LARGE_SEGMENT, MIB
from calculator.common.errors import PlanError, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOC = "device.alloc_conf"

#: The number of sizes from 1 MiB to 64 GiB that have a number of divisions for each power of two
#: (kRoundUpPowerOfTwoIntervals).
_INTERVALS = 16
_FIRST_INTERVAL = 20

#: Keys that do not change device memory. They set up pinned host memory, locks around cudaMalloc, or the reuse of
#: blocks during CUDA graph capture.
HARMLESS = (
    "graph_capture_record_stream_reuse",
    "pinned_free_catch_all",
    "pinned_max_cached_size_mb",
    "pinned_max_round_threshold_mb",
    "pinned_num_register_threads",
    "pinned_reserve_segment_size_mb",
    "pinned_use_background_threads",
    "pinned_use_cuda_host_register",
    "release_lock_on_cudamalloc",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocConf:
    """The settings that change where a tensor is placed or what is reserved. Sizes are bytes."""

    expandable_segments: bool = False
    #: The fraction of the allowed memory above which cached blocks are freed, or 0 if that is off. PyTorch reads it
    #: only if `per_process_memory_fraction` is below 1.
    garbage_collection_threshold: float = 0.0
    large_segment_size: int = LARGE_SEGMENT
    #: Blocks of this size and above are not split. None if every block may be split.
    max_split_size: int | None = None
    max_non_split_rounding_size: int = LARGE_SEGMENT
    #: The fraction of the device's memory that the process may reserve.
    per_process_memory_fraction: float = 1.0
    #: For each power of two from 1 MiB to 64 GiB, the number of divisions that sizes are rounded up to. 0 or 1 means no
    #: rounding to divisions.
    roundup_power2_divisions: tuple[int, ...] = (0,) * _INTERVALS

    @property
    def rounds_to_divisions(self) -> bool:
        """Whether any size is rounded to more than a multiple of 512 bytes."""
        return max(self.roundup_power2_divisions) > 1

    def round_size(self, size: int) -> int:
        """Return the size of the block that serves a request (round_size in CUDACachingAllocator.cpp)."""
        if self.rounds_to_divisions and size >= BLOCK:
            divisions = self.roundup_power2_divisions[_interval(size)]
            if divisions > 1 and size > BLOCK * divisions:
                return _next_division(size, divisions)
        return max(1, -(-size // BLOCK)) * BLOCK

    def oversized(self, size: int, block: int) -> bool:
        """Return whether a free block is too large to serve a request (get_free_block in CUDACachingAllocator.cpp).

        A block of `max_split_size` and above serves only requests of that size and above. Of those it serves only the
        ones that leave less than `max_non_split_rounding_size` of it unused.
        """
        limit = self.max_split_size
        if limit is None:
            return False
        if size < limit:
            return block >= limit
        return block >= size + self.max_non_split_rounding_size


DEFAULT = AllocConf()


def parse_alloc_conf(text: str) -> AllocConf:
    """Parse a value of PYTORCH_CUDA_ALLOC_CONF. If a key is repeated, the last one counts.

    Raises:
        PlanError: if a key is unknown or not modeled, or if PyTorch does not accept a value.
    """
    settings = [*_settings(text)]
    conf = DEFAULT
    # large_segment_size_mb is read first, as in parseArgs, because the minimum of two other keys is derived from it.
    for key, value in sorted(settings, key=lambda setting: setting[0] != "large_segment_size_mb"):
        if key in _PARSERS:
            conf = _PARSERS[key](conf, value)
        elif key not in HARMLESS:
            accepted = ", ".join(sorted((*_PARSERS, *HARMLESS)))
            raise _refused(f"{key!r} is not a key of PYTORCH_CUDA_ALLOC_CONF; these are: {accepted}", text)
    return conf


def _settings(text: str) -> Iterator[tuple[str, str]]:
    """Yield the keys and their values. Whitespace is ignored (ConfigTokenizer)."""
    rest = re.sub(r"\s", "", text)
    while rest:
        found = re.match(r"([^,:\[\]]+):(\[[^\[\]]*\]|[^,:\[\]]+)(?:,|$)", rest)
        if found is None:
            raise _refused(f"{rest!r} is not a key and a value; write key:value, separated by commas", text)
        yield found[1], found[2]
        rest = rest[found.end() :]


def _expandable_segments(conf: AllocConf, value: str) -> AllocConf:
    return replace(conf, expandable_segments=_boolean("expandable_segments", value))


def _garbage_collection_threshold(conf: AllocConf, value: str) -> AllocConf:
    threshold = _fraction("garbage_collection_threshold", value)
    if not 0 < threshold < 1:
        raise _refused(f"garbage_collection_threshold is {value}; set it between 0 and 1, both excluded", value)
    return replace(conf, garbage_collection_threshold=threshold)


def _per_process_memory_fraction(conf: AllocConf, value: str) -> AllocConf:
    fraction = _fraction("per_process_memory_fraction", value)
    if not 0 < fraction <= 1:
        raise _refused(f"per_process_memory_fraction is {value}; set it above 0, up to 1", value)
    return replace(conf, per_process_memory_fraction=fraction)


def _large_segment_size(conf: AllocConf, value: str) -> AllocConf:
    size = _whole("large_segment_size_mb", value)
    if size <= 10:
        raise _refused(f"large_segment_size_mb is {value}; it must be above 10", value)
    return replace(conf, large_segment_size=size * MIB, max_non_split_rounding_size=size * MIB)


def _max_split_size(conf: AllocConf, value: str) -> AllocConf:
    return replace(conf, max_split_size=_at_least_a_segment("max_split_size_mb", value, conf))


def _max_non_split_rounding(conf: AllocConf, value: str) -> AllocConf:
    return replace(conf, max_non_split_rounding_size=_at_least_a_segment("max_non_split_rounding_mb", value, conf))


def _roundup_power2_divisions(conf: AllocConf, value: str) -> AllocConf:
    key = "roundup_power2_divisions"
    if not value.startswith("["):
        divisions = _whole(key, value)
        if not _is_power_of_two(divisions):
            raise _refused(f"{key} is {value}; a number of divisions must be a power of 2", value)
        return replace(conf, roundup_power2_divisions=(divisions,) * _INTERVALS)
    return replace(conf, roundup_power2_divisions=_divisions_by_size(value))


def _divisions_by_size(value: str) -> tuple[int, ...]:
    """Parse divisions from a list such as `[256:1,512:2,1024:4,>:8]`, in MiB (parseRoundUpPower2Divisions).

    The divisions of the first size also apply to all smaller sizes. Those of `>` apply to all sizes above the last one
    before it.
    """
    divisions, last = [0] * _INTERVALS, None
    for entry in filter(None, value.strip("[]").split(",")):
        size, colon, count = entry.partition(":")
        number = _whole("roundup_power2_divisions", count)
        if not colon or (number and not _is_power_of_two(number)):
            message = f"{entry!r} in roundup_power2_divisions is not size:divisions with divisions 0 or a power of 2"
            raise _refused(message, value)
        if size == ">":
            start = 1 if last is None else last + 1
            divisions[start:] = [number] * (_INTERVALS - start)
            continue
        if not _is_power_of_two(_whole("roundup_power2_divisions", size)):
            raise _refused(f"{size} in roundup_power2_divisions is not a power of 2", value)
        index = min(int(size).bit_length() - 1, _INTERVALS - 1)
        if last is None:
            divisions[:index] = [number] * index
        divisions[index], last = number, index
    return tuple(divisions)


def _backend(conf: AllocConf, value: str) -> AllocConf:
    if value == "cudaMallocAsync":
        raise _refused(
            "backend:cudaMallocAsync leaves placement to the CUDA driver, which is not modeled;"
            " leave the key out, or set backend:native",
            f"backend:{value}",
        )
    if value != "native":
        raise _refused(f"backend {value!r} is unknown; leave the key out, or set backend:native", f"backend:{value}")
    return conf


def _throw_on_cudamalloc_oom(conf: AllocConf, value: str) -> AllocConf:
    if _boolean("throw_on_cudamalloc_oom", value):
        raise _refused(
            "throw_on_cudamalloc_oom:True, which raises before cached blocks are freed, is not modeled;"
            " leave the key out, or set it to False",
            f"throw_on_cudamalloc_oom:{value}",
        )
    return conf


_PARSERS: dict[str, Callable[[AllocConf, str], AllocConf]] = {
    "backend": _backend,
    "expandable_segments": _expandable_segments,
    "garbage_collection_threshold": _garbage_collection_threshold,
    "large_segment_size_mb": _large_segment_size,
    "max_non_split_rounding_mb": _max_non_split_rounding,
    "max_split_size_mb": _max_split_size,
    "per_process_memory_fraction": _per_process_memory_fraction,
    "roundup_power2_divisions": _roundup_power2_divisions,
    "throw_on_cudamalloc_oom": _throw_on_cudamalloc_oom,
}


def _at_least_a_segment(key: str, value: str, conf: AllocConf) -> int:
    size, least = _whole(key, value), conf.large_segment_size // MIB
    if size < least:
        raise _refused(
            f"{key} is {value}; it must be at least {least}, the size of a segment for large requests", value
        )
    return size * MIB


def _boolean(key: str, value: str) -> bool:
    if value not in {"True", "False"}:
        raise _refused(f"{key} is {value!r}; write True or False", f"{key}:{value}")
    return value == "True"


def _fraction(key: str, value: str) -> float:
    if re.fullmatch(r"\d+\.?\d*|\.\d+", value) is None:
        raise _refused(f"{key} is {value!r}; write a number such as 0.8", f"{key}:{value}")
    return float(value)


def _whole(key: str, value: str) -> int:
    if re.fullmatch(r"[0-9]{1,12}", value) is None:
        raise _refused(f"{key} has {value!r} where a whole number is needed", f"{key}:{value}")
    return int(value)


def _is_power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0


def _interval(size: int) -> int:
    return min(max(size.bit_length() - 1 - _FIRST_INTERVAL, 0), _INTERVALS - 1)


def _next_division(size: int, divisions: int) -> int:
    """Round up to a division of a power of two (roundup_power2_next_division in CUDACachingAllocator.cpp)."""
    step = (1 << (size.bit_length() - 1)) // divisions
    return size if size & (size - 1) == 0 else -(-size // step) * step


def _refused(message: str, value: str) -> PlanError:
    return refusal(LOC, message, value)
