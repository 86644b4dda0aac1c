"""The machine and the versions with which the claims were tested."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from validation.random_grid.journal import STACK


def environment(device: torch.device) -> dict[str, Any]:
    """Return the date, the processor and the versions, without the host's name."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "device": device.type,
        "gpu": gpu,
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in (*STACK, "scikit-learn")},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def _cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's name if the system has it, otherwise its architecture."""
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
