"""The facts about transformers' Trainer."""

from calculator.trainers.facts import TrainerDefault, TrainerFacts

#: Source: transformers/trainer.py, get_batch_samples, training_step and compute_loss; accelerate/utils/operations.py.
STEP = (
    "The step is that of transformers.Trainer. It fetches every batch of a step at once, with input_ids, "
    "attention_mask and labels, sets use_cache to False, releases the loss's graph after each backward pass, and keeps "
    "a few scalars. With autocast, accelerate copies the model's outputs to float32. Evaluation, logging and data "
    "loading are not counted."
)

SUMMARY = (
    "Every batch of a step is on the GPU at once, with labels and attention mask. There is no cache of keys and "
    "values. With bf16=True, the logits are copied to float32."
)

ARGUMENTS = "transformers 5.24, training_args.py"

#: The optimizer of every subclass of Trainer.
OPTIMIZER = TrainerDefault(path="training.optimizer", value="adamw_torch_fused", source=f"{ARGUMENTS}, optim")

DEFAULTS = (
    TrainerDefault(path="training.autocast", value=None, source=f"{ARGUMENTS}, bf16 and fp16"),
    TrainerDefault(path="training.gradient_checkpointing", value=False, source=f"{ARGUMENTS}, gradient_checkpointing"),
    TrainerDefault(
        path="training.dtype", value="bfloat16", source="the checkpoint's: transformers 5.24, modeling_utils.py, dtype"
    ),
    OPTIMIZER,
)

FACTS = TrainerFacts(
    label="transformers Trainer",
    source="transformers/trainer.py",
    summary=SUMMARY,
    defaults=DEFAULTS,
    batch=("input_ids", "attention_mask", "labels"),
    scalars=("num_items_in_batch", "tr_loss", "tr_loss_step", "grad_norm"),
    uses_cache=False,
    embeddings_in_32_bits=True,
    moves_states=True,  # accelerate/optimizer.py, AcceleratedOptimizer.__init__
    decay_groups=True,
    keeps_norm=True,
    assumptions=(STEP,),
)
