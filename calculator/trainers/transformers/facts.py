"""The facts about transformers' Trainer."""

from calculator.trainers.facts import TrainerFacts

#: transformers/trainer.py, get_batch_samples, training_step and compute_loss; accelerate/utils/operations.py.
STEP = (
    "The step is that of transformers.Trainer. It fetches every batch of a step at once, with input_ids, "
    "attention_mask and labels, sets use_cache to False, releases the loss's graph after each backward pass, and keeps "
    "a few scalars. With autocast, accelerate copies the model's outputs to float32. Evaluation, logging and data "
    "loading are not counted."
)

FACTS = TrainerFacts(
    label="transformers Trainer",
    source="transformers/trainer.py",
    batch=("input_ids", "attention_mask", "labels"),
    scalars=("num_items_in_batch", "tr_loss", "tr_loss_step", "grad_norm"),
    uses_cache=False,
    embeddings_in_32_bits=True,
    decay_groups=True,
    keeps_norm=True,
    assumptions=(STEP,),
)
