"""PyTorch's out-of-memory message: its figures, in every wording since PyTorch 1.0.

Source: DeviceCachingAllocator::malloc in c10/cuda/CUDACachingAllocator.cpp of PyTorch 1.0, 1.4, 1.8, 2.1 and 2.13. In
1.0 to 1.3, "cached" excludes the blocks in use. Later, "reserved in total" includes them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from calculator.common.errors import PlanError, refusal

LOC = "message"

#: The longest text that is searched for a message, in characters. It is the end of a log.
LONGEST = 1 << 18

_UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
#: A size. No GPU has a size with more digits.
_SIZE = r"\d{1,15}(?:\.\d{1,9})? (?:bytes|[KMG]iB)"
_START = re.compile(rf"\bCUDA out of memory\. Tried to allocate (?P<requested>{_SIZE})")

#: The parts of each wording in order: the name of a part in an error, its pattern, and whether it can be absent.
_Part = tuple[str, str, bool]
_OLD: tuple[_Part, ...] = (
    ("total capacity", rf" ?\(GPU (?P<gpu>\d{{1,4}}); (?P<total>{_SIZE}) total capacity;", False),
    ("already allocated", rf" (?P<allocated>{_SIZE}) already allocated;", False),
    ("free", rf" (?P<free>{_SIZE}) free;", False),
    ("allowed", rf" (?P<allowed>{_SIZE}) allowed;", True),
    (
        "reserved in total",
        rf" (?P<cached>{_SIZE}) (?P<kind>reserved in total by PyTorch|cached)(?:; {_SIZE} inactive)?\)",
        False,
    ),
)
_PROCESS = rf" Process \d{{1,20}} has {_SIZE} memory in use\."
_OWN = rf" Including non-PyTorch memory, this process has (?P<in_use>{_SIZE}) memory in use\."
_NEW: tuple[_Part, ...] = (
    ("has a total capacity of", rf"\. GPU ?(?P<gpu>\d{{1,4}}) has a total capaci?ty of (?P<total>{_SIZE})", False),
    ("is free", rf" of which (?P<free>{_SIZE}) is free\.", False),
    ("memory in use", rf"(?:{_PROCESS})*(?:{_OWN})?(?:{_PROCESS})*", True),
    ("allowed", rf" (?P<allowed>{_SIZE}) allowed;", True),
    ("is allocated by PyTorch", rf" Of the allocated memory (?P<allocated>{_SIZE}) is allocated by PyTorch,", False),
    ("private pools", rf" with {_SIZE} allocated in private pools \(e\.g\., CUDA Graphs\),", True),
    ("is reserved by PyTorch but unallocated", rf" and (?P<cached>{_SIZE}) is reserved by PyTorch but", False),
)

#: Functions of the Trainer's evaluation in a traceback.
_OF_EVALUATION = re.compile(r"\b(?:evaluation_loop|prediction_loop|prediction_step|nested_concat)\b")

#: Lines of a PyTorch optimizer in a traceback: its file, and the names of Adam's states.
_OF_OPTIMIZER = re.compile(r"\btorch/optim/\w+\.py|\bexp_avg")

#: Colors and other control sequences of a terminal.
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")

#: Errors that are not messages of the caching allocator, and what each is.
_OTHERS: tuple[tuple[str, str], ...] = (
    (r"HIP out of memory", "a message of PyTorch on an AMD GPU (HIP), and Headroom's figures are for CUDA"),
    (r"MPS backend out of memory", "a message of PyTorch on an Apple GPU (MPS), and Headroom's figures are for CUDA"),
    (r"XPU out of memory", "a message of PyTorch on an Intel GPU (XPU), and Headroom's figures are for CUDA"),
    (
        r"DefaultCPUAllocator|oom-kill|node running low on memory|^Killed\b| Killed\b",
        "about host memory, not about a GPU's",
    ),
    (r"RESOURCE_EXHAUSTED|ResourceExhaustedError|OOM when allocating tensor", "a message of JAX or TensorFlow"),
    (
        r"CUDA (driver )?error: out of memory|ALLOC_FAILED|Error out of memory at line|MemoryAllocation|OUT_OF_MEMORY",
        "an error of the driver or of a library that allocates on its own, which states no size",
    ),
    (r"NVIDIA-SMI \d", "a table of nvidia-smi, which states the memory in use and no request"),
    (r"No available memory for the cache blocks", "a message of vLLM about its KV cache"),
    (r"Tried to allocate more than 1EB memory", "about a tensor of more than 2^60 bytes, which no GPU holds"),
)
_ADVICE = "paste torch.OutOfMemoryError's text from “CUDA out of memory. Tried to allocate” to its last full stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundedSize:
    """A size as a message writes it, with two decimals."""

    text: str
    bytes: int
    #: Half of its last digit. The size is within this distance of `bytes`.
    rounding: int

    def includes(self, size: int) -> bool:
        """Return whether a size is written like this."""
        return abs(size - self.bytes) <= self.rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """The figures of an out-of-memory message.

    Attributes:
        requested: The segment that the device should have allocated.
        gpu: The device's number.
        total, free: The device's memory, and the free part of it.
        allocated: The blocks in use.
        unallocated: The cached blocks, as the message states or implies them.
        in_use: The memory that this process used. None if the message does not state it, or states nonsense.
        allowed: The limit that `per_process_memory_fraction` sets, if there is one.
        found: The number of messages in the text. This is the first one.
        in_evaluation: Whether the text before it has a traceback through the Trainer's evaluation.
        in_optimizer: Whether the text before it has a traceback through an optimizer of PyTorch.
    """

    requested: RoundedSize
    gpu: int
    total: RoundedSize
    free: RoundedSize
    allocated: RoundedSize
    unallocated: RoundedSize
    in_use: RoundedSize | None
    allowed: RoundedSize | None
    found: int
    in_evaluation: bool = False
    in_optimizer: bool = False

    @property
    def reserved_bytes(self) -> int:
        """The blocks in use and the cached ones."""
        return self.allocated.bytes + self.unallocated.bytes

    @property
    def capacity_bytes(self) -> int:
        """The bytes that the allocator could reserve: what it had reserved, and what was free."""
        capacity = self.reserved_bytes + self.free.bytes
        return min(capacity, self.allowed.bytes) if self.allowed else capacity

    @property
    def elsewhere_bytes(self) -> int | None:
        """The bytes that other processes and the driver used.

        None if the message does not state what this process used.
        """
        if self.in_use is None:
            return None
        return max(0, self.total.bytes - self.free.bytes - self.in_use.bytes)


def parse_message(text: str) -> Message:
    """Parse the first out-of-memory message of a text, which may be a whole log.

    Raises:
        PlanError: if there is none, it is cut off, or it is another error's.
    """
    if len(text) > LONGEST:
        raise refusal(LOC, f"the text is longer than {LONGEST:,} characters: {_ADVICE}", text[:200])
    plain = _ESCAPES.sub("", text)
    flat = " ".join(re.sub(r"^\s*\[?rank\s?\d+\]?:", " ", plain, flags=re.MULTILINE).split())
    starts = [*_START.finditer(flat)]
    if not starts:
        raise _no_message(flat)
    return _parsed(flat, starts)


def _parsed(flat: str, starts: list[re.Match[str]]) -> Message:
    start = starts[0]
    tail = flat[start.end() :]
    fields = _fields(tail, _OLD if tail.lstrip().startswith("(") else _NEW)
    sizes = {name: stated(value) for name, value in fields.items() if value and name not in ("gpu", "kind")}
    allocated, cached, total = sizes["allocated"], sizes["cached"], sizes["total"]
    if (fields.get("kind") or "").startswith("reserved"):
        least = max(0, cached.bytes - allocated.bytes)
        cached = RoundedSize(text=cached.text, bytes=least, rounding=cached.rounding + allocated.rounding)
    in_use = sizes.get("in_use")
    return Message(
        requested=stated(start["requested"]),
        gpu=int(fields["gpu"] or 0),
        total=total,
        free=sizes["free"],
        allocated=allocated,
        unallocated=cached,
        in_use=in_use if in_use and in_use.bytes <= total.bytes else None,
        allowed=sizes.get("allowed"),
        found=len(starts),
        in_evaluation=_OF_EVALUATION.search(flat, 0, start.start()) is not None,
        in_optimizer=_OF_OPTIMIZER.search(flat, 0, start.start()) is not None,
    )


def stated(text: str) -> RoundedSize:
    """Return a size from its text."""
    number, unit = text.split()
    exact = unit == "bytes"
    return RoundedSize(
        text=text, bytes=round(float(number) * _UNITS[unit]), rounding=0 if exact else _UNITS[unit] * 5 // 1000 + 1
    )


def _fields(tail: str, parts: tuple[_Part, ...]) -> dict[str, str | None]:
    """Return the named figures of a wording's parts.

    Raises:
        PlanError: if a part is missing, which is then named.
    """
    fields: dict[str, str | None] = {}
    place = 0
    for name, pattern, optional in parts:
        match = re.compile(pattern).match(tail, place)
        if match:
            place = match.end()
            fields |= match.groupdict()
        elif not optional:
            raise refusal(LOC, f"the message is cut off or changed where “{name}” is expected: {_ADVICE}", tail[:200])
    return fields


def _no_message(flat: str) -> PlanError:
    """Return the error for a text without a message of the caching allocator, by what the text is."""
    for pattern, what in _OTHERS:
        if re.search(pattern, flat):
            return refusal(LOC, f"this is {what}: {_ADVICE}", flat[:200])
    if re.search(r"out of memory|\bCUDA out of\b", flat, re.IGNORECASE):
        return refusal(LOC, f"the message is cut off where “Tried to allocate” is expected: {_ADVICE}", flat[:200])
    if re.search(r"[^\W\d_a-zA-Z]", flat) or re.search(r"\b(CUDA|GPU|[GM]i?B)\b", flat):
        what = "the text has no message in PyTorch's own English words; a translation is not read"
        return refusal(LOC, f"{what}: {_ADVICE}", flat[:200])
    return refusal(LOC, f"there is no out-of-memory message of PyTorch in the text: {_ADVICE}", flat[:200])
