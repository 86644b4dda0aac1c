"""Unsloth, whose step is not modelled.

Source: github.com/unslothai/unsloth at 015bdef (22 August 2026): models/loader.py, FastLanguageModel.from_pretrained;
models/llama.py, get_peft_model.
"""

from app.tools.tool import Tool
from calculator.trainers.facts import TrainerDefault

_AT = "unsloth at 015bdef"

TOOL = Tool(
    name="unsloth",
    label="Unsloth",
    trainer="trl-sft",
    summary="Unsloth patches the model and TRL's SFTTrainer with kernels of its own.",
    source=f"{_AT}, models/llama.py",
    defaults=(
        TrainerDefault(path="training.dtype", value="bfloat16", source=f"{_AT}, models/loader.py: dtype = None"),
        TrainerDefault(path="training.autocast", value="bfloat16", source="SFTConfig of TRL: bf16"),
        TrainerDefault(
            path="training.gradient_checkpointing",
            value=True,
            source=f'{_AT}, models/loader.py: use_gradient_checkpointing = "unsloth"',
        ),
        TrainerDefault(
            path="method.prepare_model_for_kbit_training",
            value=False,
            source=f"{_AT}, models/_utils.py, prepare_model_for_kbit_training",
        ),
        TrainerDefault(
            path="training.optimizer", value="adamw_torch_fused", source="transformers 5.24, training_args.py, optim"
        ),
    ),
    not_modelled="Headroom does not model Unsloth: its kernels save other tensors, its checkpointing moves layer "
    "inputs to host memory, and the size of its loss's chunks depends on the memory that is free. The figures are for "
    "TRL's SFTTrainer without Unsloth.",
)
