"""The facts about TRL's GRPOTrainer."""

from dataclasses import replace

from calculator.trainers.transformers.facts import FACTS as TRANSFORMERS
from calculator.trainers.trl_defaults import generation_defaults

#: Source: trl/trainer/grpo_trainer.py, _prepare_inputs and _compute_loss.
STEP = (
    "The step is that of TRL's GRPOTrainer. Its first micro-batch scores the completions of all micro-batches of the "
    "step (steps_per_generation is gradient_accumulation_steps, num_iterations 1); they stay in memory until the next "
    "step. Reward functions, evaluation, logging and data loading are not counted."
)

SUMMARY = (
    "A row is a prompt and a completion that the model generates. The logits are never built. A reference scores the "
    "completions before the first micro-batch if beta is not 0: a second model in memory with full fine-tuning, the "
    "model without its adapters with PEFT."
)

FACTS = replace(
    TRANSFORMERS,
    label="TRL GRPOTrainer",
    source="trl/trainer/grpo_trainer.py",
    summary=SUMMARY,
    defaults=generation_defaults("grpo_config.py"),
    generates=True,
    runs_no_grad_first=True,
    batch=(),
    scalars=("tr_loss", "tr_loss_step", "grad_norm"),
    assumptions=(STEP,),
)
