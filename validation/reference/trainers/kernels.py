"""Libraries of Triton kernels, made to run on the meta device as on a GPU of compute capability 8.0, or on a stub.

They patch classes for good, and so does this: a trace that uses them needs a process of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from validation.reference.build import META
from validation.reference.trainers import cuda_branches, triton_stand_in
from validation.stub_gpu.library import on_stub

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Card:
    """The GPU whose kernels run: an A100. Liger's gradients of norms have a row for each multiprocessor."""

    multi_processor_count: ClassVar[int] = 108
    major: ClassVar[int] = 8
    minor: ClassVar[int] = 0


def install(device: torch.device = META) -> None:
    """Replace Triton, and answer the libraries' questions about the GPU, for the rest of the process.

    A GPU needs neither, and a stub of one answers them itself.
    """
    if device == META or on_stub():
        triton_stand_in.install()
    if device != META:
        return
    cuda_branches.install()
    answers: dict[str, Callable[..., Any]] = {
        "get_device_properties": lambda *_: Card(),
        "get_device_capability": lambda *_: (Card.major, Card.minor),
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, answer)
    if find_spec("liger_kernel"):
        import_module("liger_kernel.utils").infer_device = lambda: "cuda"  # type: ignore[attr-defined]
