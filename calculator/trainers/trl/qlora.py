"""The changes that TRL's SFTTrainer makes to the dtypes of a 4-bit model.

From 1.0 on, it casts trained parameters to bfloat16 and prepares nothing. Older releases, and ORPOTrainer still,
prepare the model for k-bit training themselves. With `bf16=True` they cast embeddings and the output head back.

Source: trl/trainer/sft_trainer.py, SFTTrainer.__init__, of TRL 1.0 to 1.16; trl/models/utils.py of TRL 0.24,
prepare_peft_model and peft_module_casting_to_bf16, which TRL 0.9 to 0.13 have in trl/trainer/;
trl/experimental/orpo/orpo_trainer.py of TRL 1.16, ORPOTrainer.__init__.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.stack.releases import release

if TYPE_CHECKING:
    from calculator.common.dtype import DType
    from calculator.inputs.stack import StackVersions
    from calculator.inputs.training import Training
    from calculator.layers.method_hooks import Prepared
    from calculator.resident.module_spec import ModuleSpec
    from calculator.trainers.subject import Subject

#: Parts of the names of modules that older releases cast back.
CAST_BACK = ("lm_head", "embed_tokens", "wte", "wpe")

#: The part of the names of parameters that stay in float32 from a release on. PEFT creates them in float32 for TRL
#: whatever adapter_dtype is. Of the known releases, 1.9 still casts them.
MAGNITUDE, KEEPS_MAGNITUDES = "lora_magnitude_vector", (1, 15)


#: The first release whose GRPOTrainer prepares a 4-bit model. Before, it does not change the dtypes of one.
#: Source: TRL 0.21.0, trainer/grpo_trainer.py, GRPOTrainer.__init__ (get_peft_model).
GRPO_PREPARES = (0, 22)


#: The first release whose RewardTrainer casts embeddings and the output head back.
#: Source: TRL 0.21.0, trainer/reward_trainer.py, RewardTrainer.__init__ (prepare_model_for_kbit_training).
REWARD_CASTS_BACK = (0, 22)


def prepares(training: Training, stack: StackVersions) -> bool:
    """Return whether the trainer calls prepare_model_for_kbit_training."""
    if leaves_alone(training, stack):
        return False
    return training.trainer == "trl-orpo" or release(stack.trl) < (1, 0)


def leaves_alone(training: Training, stack: StackVersions) -> bool:
    """Return whether the trainer changes no dtype of a 4-bit model."""
    return training.trainer == "trl-grpo" and release(stack.trl)[:2] < GRPO_PREPARES


def is_prepared_by_trl(prepared: Prepared) -> bool:
    """Return whether the model is in 4 bits and the trainer prepares it."""
    return prepares(prepared.training, prepared.stack) and any(
        prepared.module_spec(path, module).quantization is not None for path, module in prepared.model.paths
    )


def module_spec(prepared: Subject, path: str, spec: ModuleSpec) -> ModuleSpec:
    """Return how a module of a 4-bit model is stored and trained."""
    if prepares(prepared.training, prepared.stack):
        # TRL wraps the model itself, with PEFT's default for the dtype of adapters, whatever adapter_dtype is.
        spec = replace(spec, added=tuple(replace(parameter, dtype="float32") for parameter in spec.added))
        if prepared.training.autocast != "bfloat16" or not _is_cast_back(path, prepared):
            return spec
        added = tuple(replace(parameter, dtype="bfloat16") for parameter in spec.added)
        return replace(spec, dtype="bfloat16", added=added) if spec.dtype == "float32" else replace(spec, added=added)
    if leaves_alone(prepared.training, prepared.stack):
        return replace(spec, added=tuple(replace(parameter, dtype="float32") for parameter in spec.added))
    keeps = release(prepared.stack.trl) >= KEEPS_MAGNITUDES
    dtypes: list[DType] = [
        "float32" if keeps and MAGNITUDE in parameter.name else "bfloat16" for parameter in spec.added
    ]
    added = tuple(replace(parameter, dtype=dtype) for parameter, dtype in zip(spec.added, dtypes, strict=True))
    return replace(spec, added=added)


def _is_cast_back(path: str, prepared: Subject) -> bool:
    if prepared.training.trainer == "trl-reward" and release(prepared.stack.trl)[:2] < REWARD_CASTS_BACK:
        return False
    return "norm" not in path and any(name in path for name in CAST_BACK)
