"""How TRL's SFTTrainer computes its loss, by release.

Source: trl/trainer/sft_config.py and sft_trainer.py of TRL 0.9.6, 0.11.4, 0.13.0, 0.24, 1.0, 1.9, 1.15 and 1.16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from calculator.stack.releases import release

if TYPE_CHECKING:
    from calculator.inputs.stack import StackVersions
    from calculator.inputs.training import Training

#: How the loss is computed: from log-probabilities of a fused head, from chunks of labeled tokens, or from all logits.
SftLoss = Literal["fused", "chunked_nll", "nll"]

#: The first release that is known to have a `compute_loss` of its own. Older ones use that of transformers.Trainer.
OWN_LOSS = (0, 24)

#: The first release with `chunked_nll` as the default, and the first with the fused head for every loss.
CHUNKED, FUSED = (1, 7), (1, 15)

#: The first release with the packing strategy bfd_split.
SPLITS = (1, 0)

#: The first release whose collator finds the bounds of the samples in a flattened batch. In older ones, each layer of
#: the model finds them.
BOUNDS = (1, 16)


def loss_of(training: Training, stack: StackVersions) -> SftLoss:
    """Return how the loss is computed."""
    trl = release(stack.trl)[:2]
    if trl >= FUSED:
        return "fused"
    match training.loss_type:
        case "nll" | "chunked_nll":
            return training.loss_type
        case _:
            return "chunked_nll" if trl >= CHUNKED and not training.use_liger_kernel else "nll"


def logs_from_logits(training: Training, stack: StackVersions) -> bool:
    """Return whether the trainer computes the logged entropy and accuracy from all logits."""
    return release(stack.trl)[:2] >= OWN_LOSS and loss_of(training, stack) == "nll"


def shifts_first(stack: StackVersions) -> bool:
    """Return whether the logged entropy leaves out the last position."""
    return release(stack.trl)[:2] >= CHUNKED


def finds_bounds(stack: StackVersions) -> bool:
    """Return whether the collator finds the bounds of the samples in a flattened batch."""
    return release(stack.trl) >= BOUNDS
