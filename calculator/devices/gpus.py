"""The GPU catalogue, and the memory that a process can use on each GPU."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from functools import cache, lru_cache
from statistics import median_high
from typing import Any

from calculator.catalogue import read, similar_names
from calculator.common.errors import refusal

MIB = 1 << 20
GIB = 1 << 30

#: What a request can state instead of a GPU that is not in the catalogue.
INSTEAD = "give its size as device.memory_bytes"

#: A memory size, after a name or instead of it: "RTX 4090 24GB", "24 GB".
_SIZED = re.compile(r"(|.*[^0-9.])(\d{1,4})\s*gi?b", re.IGNORECASE)

_BRANDS = re.compile(r"\b(nvidia|geforce|tesla|amd|radeon|instinct|intel|generation)\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class GPU:
    """A GPU. Each known figure has a source.

    Memory: `memory_gb` from the data sheet (in GiB, though data sheets write GB), `memory_driver_mib` from nvidia-smi,
    `memory_torch_mib` from `torch.cuda.get_device_properties(...).total_memory` on Linux. `multiprocessors` are those
    of an NVIDIA GPU. Speeds: `bandwidth_gbs` in GB/s; dense tensor rates, and float32 without tensor cores, in TFLOPS.
    `origin` links the row that the GPU comes from, with its float32 rate.
    """

    id: str
    name: str
    aliases: tuple[str, ...]
    vendor: str
    architecture: str
    segment: str
    compute_capability: str | None
    multiprocessors: int | None
    multiprocessors_source: str | None
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
    fp32_tflops: float | None
    tflops_source: str | None
    bf16_native: bool | None
    flash_attention_2: bool | None
    bitsandbytes_4bit: bool | None
    nvlink: bool | None
    note: str | None
    origin: str

    @property
    def compute_major(self) -> int | None:
        """The major version of the compute capability. None for a GPU that is not NVIDIA's."""
        return int(self.compute_capability.split(".")[0]) if self.compute_capability else None

    @property
    def has_flash(self) -> bool:
        """Whether PyTorch's flash attention runs on it, which needs compute capability 8.0 (sdp_utils.cpp)."""
        return self.compute_major is None or self.compute_major >= 8

    @property
    def usable_bytes(self) -> int:
        """The bytes that a process can use."""
        return usable(self).bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Usable:
    """The memory that a process can use on a GPU, and the source of that figure."""

    bytes: int
    assumption: str


@lru_cache(maxsize=256)
def _gpu_named(name: str) -> GPU | None:
    return _index().get(_key(name)) or _gpu_with_size(name)


def _gpu_with_size(name: str) -> GPU | None:
    """Return the GPU of a name that its memory size follows."""
    sized = _SIZED.fullmatch(name.strip())
    card = _index().get(_key(sized[1])) if sized else None
    return card if sized and card and card.memory_gb == int(sized[2]) else None


def gpu(name: str, loc: str = "device.gpu") -> GPU:
    """Look a GPU up by id, name or alias, whatever its case and spacing ("RTX 4090", "a100 80gb", "4090").

    Raises:
        PlanError: if the catalogue lacks the GPU. The message names similar ones.
    """
    card = _gpu_named(name) if len(name) <= 100 else None
    if card is None:
        raise refusal(loc, f"{name[:100]!r} is not in the catalogue; {_suggestion(name[:100])}", name)
    return card


@cache
def gpus() -> tuple[GPU, ...]:
    """Return every GPU of the catalogue, in its order."""
    catalogue = read("gpus.json")
    return tuple(_card(row, catalogue["sources"]) for row in catalogue["gpus"])


@cache
def usable(card: GPU) -> Usable:
    """Return the memory that torch reports for a GPU, or an estimate from the driver's figure or the data sheet."""
    if card.memory_torch_mib is not None:
        reported = f"A process can use {card.memory_torch_mib:,} MiB of {card.name} ({card.memory_torch_source})"
        return Usable(bytes=card.memory_torch_mib * MIB, assumption=reported)
    reserve = typical_reserve_mib()
    kept = f"less {reserve:,} MiB that drivers typically reserve (the median over GPUs with both figures)"
    if card.memory_driver_mib is not None:
        driver = f"Torch's figure for {card.name} is unknown: {card.memory_driver_mib:,} MiB in nvidia-smi, {kept}"
        return Usable(bytes=(card.memory_driver_mib - reserve) * MIB, assumption=driver)
    sheet = f"Only the data sheet of {card.name} is known: {card.memory_gb} GiB"
    total = card.memory_gb * GIB
    if has_inline_ecc(card):
        sheet, total = f"{sheet}, less 1/16 for error correction", total * 15 // 16
    return Usable(bytes=total - reserve * MIB, assumption=f"{sheet}, {kept}")


@cache
def typical_reserve_mib() -> int:
    """Return by how many MiB torch's figure is below nvidia-smi's: the median over GPUs with both figures."""
    return median_high(
        card.memory_driver_mib - card.memory_torch_mib
        for card in gpus()
        if card.memory_driver_mib is not None and card.memory_torch_mib is not None
    )


def caveats(card: GPU) -> tuple[str, ...]:
    """Return how a GPU differs from the CUDA GPU of compute capability 8.0 or higher that the figures assume."""
    if card.compute_capability is None:
        return (f"{card.name} is not a CUDA GPU: workspaces, context and kernels are those of an NVIDIA A100",)
    warnings = []
    if not card.bf16_native:
        warnings.append(f"{card.name} has no native bfloat16")
    if not card.has_flash:
        warnings.append(
            f"{card.name} has no flash attention: sdpa uses the memory-efficient kernel, with the temporary memory of "
            "compute capability 8.0. In bfloat16 it uses the math kernel, which keeps the scores of all pairs of "
            "positions; in float16 it does not"
        )
    return tuple(warnings)


def has_inline_ecc(card: GPU) -> bool:
    """Return whether error correction uses 1/16 of the memory.

    It does on data-centre GPUs with GDDR (A10, A40, L4, L40S, T4).
    """
    return card.vendor == "NVIDIA" and card.segment == "data centre" and card.memory_type.startswith("GDDR")


def _card(row: dict[str, Any], texts: dict[str, str]) -> GPU:
    figures = {f.name: row[f.name] for f in fields(GPU)}
    for key in (
        "multiprocessors_source",
        "memory_driver_source",
        "memory_torch_source",
        "bandwidth_source",
        "tflops_source",
    ):
        figures[key] = texts[row[key]] if row[key] else None
    figures["origin"] = texts.get(row["origin"], row["origin"])
    return GPU(**{**figures, "aliases": tuple(row["aliases"])})


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


def _suggestion(name: str) -> str:
    names = {_key(card.name): card.name for card in gpus()}
    key = _key(name)
    size = _SIZED.fullmatch(name.strip())
    near = [card.name for card in gpus() if size and not size[1] and card.memory_gb == int(size[2])]
    near = near or [names[alias] for alias in names if key and key in alias]
    near = near or [names[k] for k in similar_names(key, list(names))]
    return f"did you mean {', '.join(near[:6])}? Or {INSTEAD}" if near else INSTEAD
