"""vLLM as the engine of a generating trainer: what is refused, and what an answer says about it.

Source: trl/generation/vllm_generation.py of TRL 1.16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.inputs.training import Training
    from calculator.trainers.subject import Subject

#: Settings of vLLM on the trainer's GPU, with the values that have no effect.
OF_COLOCATED: dict[str, object] = {"vllm_gpu_memory_utilization": None, "vllm_enable_sleep_mode": False}


#: Settings of vLLM itself, with the values that have no effect.
OF_ENGINE: dict[str, object] = {**OF_COLOCATED, "vllm_mode": "colocate"}


def problems(training: Training) -> Iterator[Problem]:
    """Yield settings of vLLM that have no effect."""
    unused = OF_ENGINE if not training.use_vllm else OF_COLOCATED if training.vllm_mode == "server" else {}
    for name, value in unused.items():
        given = getattr(training, name)
        if given != value:
            way_out = "set use_vllm to true" if not training.use_vllm else "use the vllm_mode colocate"
            message = f"it has no effect on this GPU: {way_out}, or leave it out"
            yield Problem(loc=f"training.{name}", msg=message, input=given)


def sentences(prepared: Subject) -> Iterator[str]:
    """Yield sentences on the GPU memory that vLLM reserves, and on the weights that are gathered for it."""
    yield from _share(prepared.training)
    if prepared.device.sharding == "zero3" and prepared.method.facts.config_class:
        yield "As each step begins, TRL gathers all weights on every GPU to merge the adapters, and vLLM reads them."
    elif prepared.device.sharding == "zero3":
        yield "As each step begins, TRL gathers one weight after the other, and vLLM reads them."


def _share(training: Training) -> Iterator[str]:
    colocated = training.colocated
    if colocated is None:
        yield "vLLM runs as a server on other GPUs, and takes nothing of this one (vllm_mode server)."
        return
    share = f"{colocated.share:.0%} of the GPU's whole memory (vllm_gpu_memory_utilization)"
    if colocated.sleeps:
        yield (
            f"vLLM takes {share} while it generates and sleeps while the trainer trains (vllm_enable_sleep_mode). What "
            "it keeps while it sleeps, such as CUDA graphs, is not counted."
        )
    else:
        yield f"vLLM takes {share} all the time: the verdict is that of the rest."
    yield "CUDA graphs that vLLM captures beyond its share, and merging adapters for its weights, are not counted."
