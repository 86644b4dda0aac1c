"""axolotl and its defaults.

Source: github.com/axolotl-ai-cloud/axolotl at 067b021 (version 0.18.0, 24 July 2026): core/trainers/base.py,
AxolotlTrainer; core/builders/base.py; utils/config/__init__.py, normalize_config; utils/schemas/training.py.
"""

from app.tools.tool import Tool
from calculator.trainers.facts import TrainerDefault

_AT = "axolotl 0.18"

TOOL = Tool(
    name="axolotl",
    label="axolotl",
    trainer="transformers",
    summary="AxolotlTrainer is a subclass of transformers' Trainer with the same step. If checkpointing is on, it is "
    "re-entrant unless the file sets use_reentrant.",
    source=f"{_AT}, core/trainers/base.py, AxolotlTrainer",
    defaults=(
        TrainerDefault(
            path="training.autocast", value="bfloat16", source=f"{_AT}, utils/schemas/config.py, bf16: auto"
        ),
        TrainerDefault(path="training.dtype", value="bfloat16", source=f"{_AT}, utils/config, resolve_dtype"),
        TrainerDefault(
            path="training.gradient_checkpointing", value=False, source=f"{_AT}, utils/schemas/config.py; unset is off"
        ),
        TrainerDefault(
            path="training.gradient_checkpointing_kwargs.use_reentrant",
            value=True,
            source=f"{_AT}, utils/config, normalize_config",
        ),
        TrainerDefault(
            path="training.optimizer", value="adamw_torch_fused", source=f"{_AT}, utils/schemas/training.py, optimizer"
        ),
        TrainerDefault(
            path="method.prepare_model_for_kbit_training",
            value=False,
            source=f"{_AT}, loaders/model.py, which casts norms and embeddings back",
        ),
    ),
    not_modelled="axolotl enables fused LoRA kernels by default (lora_mlp_kernel, lora_qkv_kernel, lora_o_kernel). "
    "They are not modeled: the figures are for PEFT's own layers, with these keys set false.",
)
