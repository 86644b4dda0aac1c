"""GPUs: the memory that a process can use, what CUDA and its libraries need, and whether a run fits."""

from calculator.devices.gpus import GPU, Usable, caveats, gpu, gpus, usable
from calculator.devices.outcome import Verdict
from calculator.devices.overhead import cuda_context, library_workspace, workspaces
from calculator.devices.verdict import Fit, fit

__all__ = [
    "GPU",
    "Fit",
    "Usable",
    "Verdict",
    "caveats",
    "cuda_context",
    "fit",
    "gpu",
    "gpus",
    "library_workspace",
    "usable",
    "workspaces",
]
