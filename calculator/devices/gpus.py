"""The GPU catalogue, and the memory that a process sees on each card."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from functools import cache
from statistics import median_high
from typing import Any

from calculator.catalogue import closest, read
from calculator.common.errors import refusal

MIB = 1 << 20
GIB = 1 << 30

_BRANDS = re.compile(r"\b(nvidia|geforce|tesla|amd|radeon|instinct|intel|generation)\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class GPU:
    """A card, with each figure's source where the figure is known.

    Memory: `memory_gb` as the data sheet says (GiB, though it writes GB), `memory_driver_mib` as nvidia-smi shows,
    `memory_torch_mib` as `torch.cuda.get_device_properties(...).total_memory` shows on Linux.
    Speeds: `bandwidth_gbs` in GB/s, dense tensor rates in TFLOPS. `origin` is the row that names the card.
    """

    id: str
    name: str
    aliases: tuple[str, ...]
    vendor: str
    architecture: str
    segment: str
    compute_capability: str | None
    memory_gb: int
    memory_type: str
    memory_driver_mib: int | None
    memory_driver_source: str | None
    memory_torch_mib: int | None
    memory_torch_source: str | None
    bandwidth_gbs: float | None
    bandwidth_source: str | None
    bf16_tflops: float | None
    fp16_tflops: float | None
    tflops_source: str | None
    bf16_native: bool | None
    flash_attention_2: bool | None
    bitsandbytes_4bit: bool | None
    nvlink: bool | None
    note: str | None
    origin: str

    @property
    def compute_major(self) -> int | None:
        """The compute capability's first number; None for a card that isn't NVIDIA's."""
        return int(self.compute_capability.split(".")[0]) if self.compute_capability else None

    @property
    def has_flash(self) -> bool:
        """Whether PyTorch's flash attention runs on it: compute capability 8.0 and up (sdp_utils.cpp)."""
        return self.compute_major is None or self.compute_major >= 8

    @property
    def usable_bytes(self) -> int:
        """Bytes that a torch process sees on the card."""
        return usable(self).bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Usable:
    """The memory that a card offers to a process, and what that figure rests on."""

    bytes: int
    assumption: str


def gpu(name: str, loc: str = "device.gpu") -> GPU:
    """Look a card up by id, name or alias, whatever its case and spacing ("RTX 4090", "a100 80gb", "4090").

    Raises:
        PlanError: where the catalogue has no such card, naming the closest ones.
    """
    found = _index().get(_key(name)) if len(name) <= 100 else None
    if found is None:
        raise refusal(loc, f"{name[:100]!r} is not in the catalogue; {_way_out(name[:100])}", name)
    return found


@cache
def gpus() -> tuple[GPU, ...]:
    """Every card of the catalogue, in its order."""
    told = read("gpus.json")
    return tuple(_card(row, told["sources"]) for row in told["gpus"])


@cache
def usable(card: GPU) -> Usable:
    """What torch was seen to offer on a card, or else an estimate from the driver's figure or the data sheet."""
    if card.memory_torch_mib is not None:
        seen = f"{card.name} offers a process {card.memory_torch_mib:,} MiB ({card.memory_torch_source})"
        return Usable(bytes=card.memory_torch_mib * MIB, assumption=seen)
    reserve = typical_reserve_mib()
    keeps = f"less {reserve:,} MiB that drivers typically keep (the median of the cards where both figures are known)"
    if card.memory_driver_mib is not None:
        shown = f"torch's figure for {card.name} is not known: {card.memory_driver_mib:,} MiB in nvidia-smi, {keeps}"
        return Usable(bytes=(card.memory_driver_mib - reserve) * MIB, assumption=shown)
    sheet = f"only the data sheet of {card.name} is known: {card.memory_gb} GiB"
    offered = card.memory_gb * GIB
    if has_inline_ecc(card):
        sheet, offered = f"{sheet}, less 1/16 for error correction", offered * 15 // 16
    return Usable(bytes=offered - reserve * MIB, assumption=f"{sheet}, {keeps}")


@cache
def typical_reserve_mib() -> int:
    """MiB between what nvidia-smi and what torch show: the median over the cards with both figures."""
    return median_high(
        card.memory_driver_mib - card.memory_torch_mib
        for card in gpus()
        if card.memory_driver_mib is not None and card.memory_torch_mib is not None
    )


def caveats(card: GPU) -> tuple[str, ...]:
    """What a plan's figures, which speak of CUDA and compute capability 8.0 and up, miss on a card."""
    if card.compute_capability is None:
        return (f"{card.name} is not a CUDA card: workspaces, context and kernels are those of an NVIDIA A100",)
    told = []
    if not card.bf16_native:
        told.append(f"{card.name} has no native bfloat16")
    if not card.has_flash:
        told.append(
            f"{card.name} has no flash attention: sdpa takes the memory-efficient kernel, whose scratch is taken as on "
            "compute capability 8.0"
        )
    return tuple(told)


def has_inline_ecc(card: GPU) -> bool:
    """Whether error correction takes 1/16 of the memory: data-centre cards with GDDR, as A10, A40, L4, L40S and T4."""
    return card.vendor == "NVIDIA" and card.segment == "data centre" and card.memory_type.startswith("GDDR")


def _card(row: dict[str, Any], texts: dict[str, str]) -> GPU:
    told = {f.name: row[f.name] for f in fields(GPU)}
    for key in ("memory_driver_source", "memory_torch_source", "bandwidth_source", "tflops_source"):
        told[key] = texts[row[key]] if row[key] else None
    told["origin"] = texts.get(row["origin"], row["origin"])
    return GPU(**{**told, "aliases": tuple(row["aliases"])})


@cache
def _index() -> dict[str, GPU]:
    index: dict[str, GPU] = {}
    for card in gpus():
        for name in (card.id, card.name, *card.aliases):
            index[_key(name)] = card
            if card.name.startswith("GeForce "):
                index[re.sub(r"^[rg]tx", "", _key(name))] = card
    return index


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", _BRANDS.sub("", name.lower()))


def _way_out(name: str) -> str:
    names = {_key(card.name): card.name for card in gpus()}
    key = _key(name)
    near = [names[known] for known in names if key and key in known] or [names[k] for k in closest(key, list(names))]
    instead = "give its size as device.memory_bytes"
    return f"did you mean {', '.join(near[:6])}? Or {instead}" if near else instead
