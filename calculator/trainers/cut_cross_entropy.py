"""The runs for which `cut_cross_entropy` is modeled, and those in which it has no effect.

Source: axolotl, src/axolotl/integrations/cut_cross_entropy/__init__.py; cut_cross_entropy/transformers/patch.py of
axolotl-ai-cloud/ml-cross-entropy at 5f0c7a7, PATCH_FNS, and the files that it names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import Problem
from calculator.stack.releases import release
from calculator.trainers import adapted_head
from calculator.trainers.trl_sft.releases import OWN_LOSS, logs_from_logits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.inputs.sharding import ShardingName
    from calculator.inputs.training import Training
    from calculator.trainers.subject import Subject

#: The families whose patch scales the hidden states instead of the logits, which transformers scales: cohere.py:75,
#: granite.py:75 and granitemoe.py:79.
SCALED = ("cohere", "cohere2", "granite", "granitemoe", "granitemoehybrid")

#: The families with the forward pass of llama.py:38, or with one of their own that calls the loss in the same way.
FAMILIES = (
    "llama", "mistral", "qwen2", "qwen3", "phi", "phi3", "gemma", "gemma2", "gemma3_text", "gemma4_text", "smollm3",
    "ministral", "ministral3", "olmo", "olmo2", "olmo3", "olmoe", "glm", "glm4", "glm4_moe", "glm4_moe_lite",
    "apertus", "arcee", "exaone4", "hunyuan_v1_dense", "seed_oss", "lfm2", "mixtral", "gpt_oss", "deepseek_v2",
    "deepseek_v3", "llama4_text", "qwen2_moe", "qwen3_moe", "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text",
    *SCALED,
)  # fmt: skip

FIELD = "training.cut_cross_entropy"

ASSUMPTION = (
    "The loss is Cut Cross-Entropy's, in axolotl's fork of apple/ml-cross-entropy, with its kernels' buffers and"
    " filter_eps auto; what CUDA needs to sort one number for each token of the vocabulary is not counted."
)

NO_EFFECT = "{label} does not call the forward pass that Cut Cross-Entropy patches with labels: it changes nothing."


def is_called(training: Training) -> bool:
    """Return whether the trainer calls the patched forward pass with labels."""
    return training.cut_cross_entropy and training.trainer == "transformers"


def problems(prepared: Subject, sharding: ShardingName) -> Iterator[Problem]:
    """Yield why a run with Cut Cross-Entropy is refused."""
    training, model = prepared.training, prepared.model
    if not training.cut_cross_entropy:
        return
    if model.model_type not in FAMILIES:
        message = f"no patch of {model.model_type} is modeled: use false, or one of {', '.join(FAMILIES)}"
        yield Problem(loc=FIELD, msg=message, input=True)
    if not is_called(training):
        yield from _other_trainers(prepared)
        return
    if training.use_liger_kernel:
        message = "Liger's kernels have a loss of their own, and the last patch of the model wins: use false for one"
        yield Problem(loc=FIELD, msg=message, input=True)
    if sharding != "none":
        message = f"is not modeled with sharding {sharding}: use false, or one GPU"
        yield Problem(loc=FIELD, msg=message, input=True)
    head = prepared.module_spec(model.output.name, model.output)
    message = (
        f"the loss reads only the weight of {model.output.name}, so an adapter on it gets no gradient: leave it out"
    )
    yield from adapted_head.problems(prepared, message, "cut_cross_entropy false, or leave the tokens out")
    if head.dtype == "float32":
        message = (
            f"its backward pass needs hidden states and output head in half precision, and {model.output.name} is in"
            " float32: use false, training.dtype bfloat16, or a 4-bit model that is not prepared"
        )
        yield Problem(loc=FIELD, msg=message, input=True)


def _other_trainers(prepared: Subject) -> Iterator[Problem]:
    """Yield a problem if a trainer with another loss does not run `cut_cross_entropy`."""
    training, trl = prepared.training, prepared.stack.trl
    name = training.trainer or ""
    if not name.startswith("trl-"):
        message = f"{name} computes the loss its own way: use false, or the trainer transformers, which axolotl runs"
        yield Problem(loc=FIELD, msg=message, input=True)
    elif name == "trl-sft" and release(trl)[:2] < OWN_LOSS:
        message = (
            f"SFTTrainer of TRL {trl} calls the models of transformers 4.39 to 4.48, for which no patch is modeled: use"
            " false, or the trainer transformers with the default stack"
        )
        yield Problem(loc=FIELD, msg=message, input=True)
    elif name == "trl-sft" and logs_from_logits(training, prepared.stack):
        message = (
            f"SFTTrainer of TRL {trl} computes the entropy that it logs from logits, which a model with Cut"
            " Cross-Entropy does not return: use false, or the trainer transformers, which axolotl runs"
        )
        yield Problem(loc=FIELD, msg=message, input=True)


def assumption(training: Training, label: str) -> Iterator[str]:
    """Yield the assumption about Cut Cross-Entropy. `label` is the trainer's name in words."""
    if is_called(training):
        yield ASSUMPTION
    elif training.cut_cross_entropy:
        yield NO_EFFECT.format(label=label)
