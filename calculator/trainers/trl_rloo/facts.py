"""The facts about TRL's RLOOTrainer."""

from dataclasses import replace

from calculator.trainers.trl_defaults import generation_defaults
from calculator.trainers.trl_grpo.facts import FACTS as GRPO

#: Source: trl/trainer/rloo_trainer.py, _prepare_inputs and _compute_loss.
STEP = (
    "The step is that of TRL's RLOOTrainer. Its first micro-batch scores the completions of all micro-batches of the "
    "step (steps_per_generation is gradient_accumulation_steps, num_iterations 1); they stay in memory until the next "
    "step. Reward functions, evaluation, logging and data loading are not counted."
)

SUMMARY = (
    "A row is a prompt and a completion that the model generates. The logits are never built. Before the first "
    "micro-batch, the model and, if beta is not 0, a reference score the completions: a second model in memory with "
    "full fine-tuning, the model without its adapters with PEFT."
)

FACTS = replace(
    GRPO,
    label="TRL RLOOTrainer",
    source="trl/trainer/rloo_trainer.py",
    summary=SUMMARY,
    defaults=generation_defaults("rloo_config.py"),
    assumptions=(STEP,),
)
