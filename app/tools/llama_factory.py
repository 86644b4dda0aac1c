"""LLaMA-Factory and its defaults.

Source: github.com/hiyouga/LLaMA-Factory at ff6d4d1 (version 0.9.6.dev0, 18 August 2026): train/sft/trainer.py,
CustomSeq2SeqTrainer; model/model_utils/checkpointing.py; hparams/model_args.py; model/adapter.py, init_adapter.
"""

from app.tools.tool import Tool
from calculator.trainers.facts import TrainerDefault

_AT = "LLaMA-Factory 0.9.6"

TOOL = Tool(
    name="llama-factory",
    label="LLaMA-Factory",
    trainer="transformers",
    summary="CustomSeq2SeqTrainer is a subclass of transformers' Trainer with the same step. Checkpointing is on and "
    "re-entrant, and full fine-tuning keeps float32 weights.",
    source=f"{_AT}, train/sft/trainer.py, CustomSeq2SeqTrainer",
    defaults=(
        TrainerDefault(path="training.autocast", value="bfloat16", source=f"bf16: true in the examples of {_AT}"),
        TrainerDefault(
            path="training.dtype",
            value="bfloat16",
            source=f"the checkpoint's: {_AT}, model/loader.py, load_model",
            trains_base=False,
        ),
        TrainerDefault(
            path="training.dtype", value="float32", source=f"{_AT}, model/adapter.py, init_adapter", trains_base=True
        ),
        TrainerDefault(
            path="training.gradient_checkpointing",
            value=True,
            source=f"{_AT}, hparams/model_args.py, disable_gradient_checkpointing",
        ),
        TrainerDefault(
            path="training.gradient_checkpointing_kwargs.use_reentrant",
            value=True,
            source=f"{_AT}, hparams/model_args.py, use_reentrant_gc",
        ),
        TrainerDefault(
            path="training.optimizer", value="adamw_torch_fused", source="transformers 5.8, training_args.py, optim"
        ),
        TrainerDefault(
            path="method.prepare_model_for_kbit_training",
            value=False,
            source=f"{_AT}, model/model_utils/checkpointing.py, prepare_model_for_training",
        ),
    ),
    not_modelled="The stages dpo, kto, rm and ppo run trainers of LLaMA-Factory's own, which are not modeled: the "
    "figures are for the stages sft and pt.",
)
