"""TRL's `activation_offloading`: with what it is modeled, and what an answer says about it.

Source: trl/models/activation_offloading.py, OffloadActivations, of TRL 1.15 and 1.16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import Problem
from calculator.stack.releases import release

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.inputs.sharding import ShardingName
    from calculator.trainers.subject import Subject

#: The first release whose manager was traced.
FIRST = (1, 15)

#: The sentence of an answer about the tensors that are offloaded.
OFFLOADED = (
    "TRL's OffloadActivations copies every saved tensor of 1 kB or more to pinned host memory: here the inputs of the "
    "layers, and what the norm and the loss after them save. The last five stay on the GPU until the backward pass "
    "begins. A tensor that was copied back stays until the next node that reads an offloaded one has run."
)

#: The sentence on what depends on the time that the copies take.
TIMING = (
    "Which tensors are alive does not depend on how long the copies take. Reserved memory can depend on it: a block "
    "for which record_stream was called is used again once its copy has ended. The figures assume that the copy has "
    "ended when the tensor is freed. TRL also empties the allocator's cache before each micro-batch if bitsandbytes is "
    "imported, which PEFT does for LoRA. That is not replayed."
)


def problems(prepared: Subject, sharding: ShardingName) -> Iterator[Problem]:
    """Yield why activations that a trainer of TRL offloads are refused."""
    training = prepared.training
    if not training.activation_offloading:
        return
    reasons = {
        "with re-entrant checkpoints is not modeled, because their recomputed tensors are offloaded too: set "
        "gradient_checkpointing_kwargs.use_reentrant false": (
            training.gradient_checkpointing and training.use_reentrant
        ),
        "with images is not modeled: use false, or leave images out": training.has_images,
        "on several GPUs is not modeled: use false, or device.sharding none": sharding != "none",
        "is not modeled for models whose layers have inputs of their own, such as Gemma 4: use false": bool(
            prepared.model.config.get("hidden_size_per_layer_input")
        ),
        "is not modeled for layers that receive a mask as a positional argument: use false, or sdpa without padding": (
            prepared.model.model_type == "gpt2" and (training.attention == "eager" or training.padding)
        ),
        f"of TRL {prepared.stack.trl} is not modeled: use a stack.trl of 1.15 or later": (
            release(prepared.stack.trl)[:2] < FIRST
        ),
        f"with transformers {prepared.stack.transformers} is not modeled: use a stack.transformers of 5.0 or later": (
            release(prepared.stack.transformers)[:1] < (5,)
        ),
    }
    for reason, applies in reasons.items():
        if applies:
            yield Problem(loc="training.activation_offloading", msg=f"TRL's option {reason}", input=True)
            return
