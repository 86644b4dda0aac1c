"""The machine and the versions of a measurement."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch

from calculator.common.errors import PlanError
from calculator.devices import gpu, gpus
from calculator.stack.releases import parse_stack
from validation.measure.meter import driver_bytes, workspace_bytes
from validation.random_grid.journal import STACK

if TYPE_CHECKING:
    from calculator.devices import GPU

#: Environment variables that change how PyTorch allocates.
ALLOCATOR = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "CUBLAS_WORKSPACE_CONFIG", "CUDA_MODULE_LOADING")

#: Fields that must be equal for two runs to share a results file.
IDENTITY = ("device", "card", "driver", "cuda", "versions", "variables")


def environment(device: torch.device) -> dict[str, Any]:
    """Return the machine, its versions and the date; on a GPU also the bytes of its context and workspaces.

    Call this before anything else uses the device.
    """
    values: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": "cpu",
        "card": None,
        "driver": None,
        "cuda": torch.version.cuda,
        "memory": None,
        "compute_capability": None,
        "context": None,
        "library_workspace": workspace_bytes(device),
        "versions": {name: version(name) for name in STACK},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "variables": {name: os.environ[name] for name in ALLOCATOR if name in os.environ},
    }
    if device.type != "cuda":
        return values
    properties = torch.cuda.get_device_properties(device)
    return values | {
        "device": properties.name,
        "card": card_named(properties.name, properties.total_memory, properties.major).id,
        "driver": _driver(),
        "memory": properties.total_memory,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "context": (driver_bytes(device) or 0) - torch.cuda.memory_reserved(device),
    }


def machine(values: dict[str, Any]) -> dict[str, Any]:
    """Return the `device` and the `stack` of a request for the machine of an environment.

    On a GPU, the figures count what kernels allocate on CUDA. A release of PyTorch that the calculator does not know
    counts as the default one.
    """
    device = {"gpu": values["card"], "type": "cuda"} if values["card"] else {}
    stack = {"torch": values["versions"]["torch"].partition("+")[0]}
    try:
        parse_stack(stack)
    except PlanError:
        stack = {}
    return {"device": device, "stack": stack}


def card_named(name: str, memory: int, major: int) -> GPU:
    """Return the catalogue's GPU with a device's name; otherwise one of the same generation with the nearest memory."""
    try:
        return gpu(name)
    except PlanError:
        same = [card for card in gpus() if card.compute_major == major] or list(gpus())
        return min(same, key=lambda card: abs(card.usable_bytes - memory))


def _driver() -> str | None:
    """Return the driver's version by nvidia-smi; None without a driver."""
    command = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)  # noqa: S603  (a constant command)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(output.stdout.split()), None)
