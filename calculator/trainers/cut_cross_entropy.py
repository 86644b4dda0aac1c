"""Which runs `cut_cross_entropy` is modelled for.

Source: axolotl, src/axolotl/integrations/cut_cross_entropy/__init__.py; cut_cross_entropy/transformers/patch.py of
axolotl-ai-cloud/ml-cross-entropy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.inputs.sharding import ShardingName
    from calculator.inputs.training import Training
    from calculator.trainers.subject import Subject

#: The families that axolotl's fork patches and whose patch is modelled.
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma", "gemma2", "gemma3_text")

FIELD = "training.cut_cross_entropy"

ASSUMPTION = (
    "The loss is Cut Cross-Entropy's (apple/ml-cross-entropy), with its kernels' buffers and filter_eps auto; what CUDA"
    " needs to sort one number for each token of the vocabulary is not counted."
)


def problems(prepared: Subject, sharding: ShardingName) -> Iterator[Problem]:
    """Yield why a run with Cut Cross-Entropy is refused."""
    training, model = prepared.training, prepared.model
    if not training.cut_cross_entropy:
        return
    if training.trainer != "transformers":
        message = (
            f"{training.trainer} computes the loss outside of the model, or its own way: use false, or transformers,"
            " which axolotl runs"
        )
        yield Problem(loc=FIELD, msg=message, input=True)
        return
    if model.model_type not in FAMILIES:
        message = f"is modelled for {', '.join(FAMILIES)}: use false for {model.model_type}"
        yield Problem(loc=FIELD, msg=message, input=True)
    if training.use_liger_kernel:
        message = "Liger's kernels have a loss of their own, and the last patch of the model wins: use false for one"
        yield Problem(loc=FIELD, msg=message, input=True)
    if sharding != "none":
        message = f"is not modelled with sharding {sharding}: use false, or one GPU"
        yield Problem(loc=FIELD, msg=message, input=True)
    if prepared.module_spec(model.output.name, model.output).added:
        message = (
            f"the loss reads the weight of {model.output.name} alone, and an adapter on it learns nothing: leave it out"
        )
        yield Problem(loc="method.target_modules", msg=message, input=model.output.name)


def assumption(training: Training) -> Iterator[str]:
    """Yield what an answer assumes about Cut Cross-Entropy."""
    if training.cut_cross_entropy:
        yield ASSUMPTION
