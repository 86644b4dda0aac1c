"""How TRL's SFTTrainer computes its loss, by release.

Source: trl/trainer/sft_config.py and sft_trainer.py of TRL 0.9.6, 0.11.4, 0.13.0, 0.15 to 0.24, 1.0, 1.9,
1.15 and 1.16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from calculator.stack.releases import release

if TYPE_CHECKING:
    from calculator.inputs.stack import StackVersions
    from calculator.inputs.training import Training
    from calculator.layers.trl.logits_metrics import Chunks
    from calculator.stack.releases import Release

#: How the loss is computed: from log-probabilities of a fused head, from chunks of labeled tokens, or from all logits.
SftLoss = Literal["fused", "chunked_nll", "nll"]

#: The first release with a `compute_loss` of its own, which logs the accuracy. Older ones use that of
#: transformers.Trainer.
OWN_LOSS = (0, 15)

#: The first release that logs the entropy too, and passes use_cache=False to the model.
LOGS_ENTROPY = (0, 22)

#: The first release that computes the entropy of some rows of logits at once. TRL 0.22 computes that of a sequence.
ENTROPY_OF_ROWS = (0, 23)

#: The first release that computes the accuracy with virtual tokens in the logits, and the first that does without them
#: in the logits but with a prefix.
SKIPS_VIRTUAL_TOKENS, KNOWS_PREFIXES = (0, 22), (0, 24)

#: The first release whose values of `loss_type` are known.
NAMES_LOSSES = (0, 24)

#: The first release whose packed rows of full length are known, and the first whose batches have the positions of a row
#: of samples for every attention.
PACKS, FLATTENS = (0, 19), (0, 23)

#: The last release whose rows of samples are known with older models, and the releases of transformers with these.
LAST_ROWS, ROWS_IN_TRANSFORMERS = (0, 24), ((4, 56), (4, 57))

#: The first release with `chunked_nll` as the default, and the first with the fused head for every loss.
CHUNKED, FUSED = (1, 7), (1, 15)

#: The first release with the packing strategy bfd_split.
SPLITS = (1, 0)

#: The first release whose collator finds the bounds of the samples in a flattened batch. In older ones, each layer of
#: the model finds them.
BOUNDS = (1, 16)


#: The first and the last release whose batches have the positions of tokens for flash_attention_2.
RETURNS_POSITIONS = ((0, 19), (0, 22))

#: The oldest transformers that a release of TRL needs, by the first such release of TRL.
#: Source: the metadata of trl 0.15.2 to 1.16.
NEEDS: dict[Release, Release] = {
    (0, 15): (4, 46),
    (0, 18): (4, 50),
    (0, 19): (4, 51),
    (0, 20): (4, 53),
    (0, 21): (4, 55),
    (0, 23): (4, 56),
}


def needed(stack: StackVersions) -> Release:
    """Return the oldest transformers that the release of TRL needs, or (0,) if it is not stated here."""
    trl = release(stack.trl)[:2]
    return max((oldest for first, oldest in NEEDS.items() if trl >= first), default=(0,))


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
    """Return whether the trainer computes the logged accuracy, and entropy if it logs it, from all logits."""
    return release(stack.trl)[:2] >= OWN_LOSS and loss_of(training, stack) == "nll"


def logs_entropy(stack: StackVersions) -> bool:
    """Return whether the trainer logs the entropy."""
    return release(stack.trl)[:2] >= LOGS_ENTROPY


def entropy_chunks(stack: StackVersions) -> Chunks | None:
    """Return of which logits the entropy is computed at once, or None if it is not logged."""
    if not logs_entropy(stack):
        return None
    return "rows" if release(stack.trl)[:2] >= ENTROPY_OF_ROWS else "sequences"


def copies_mask(stack: StackVersions) -> bool:
    """Return whether the attention mask is joined with one of virtual tokens, so that it becomes float32.

    Source: TRL 0.23.1, trainer/sft_trainer.py, compute_loss (virtual_attention_mask).
    """
    return LOGS_ENTROPY <= release(stack.trl)[:2] < KNOWS_PREFIXES


def chooses_reentrance(stack: StackVersions) -> bool:
    """Return whether the trainer sets use_reentrant to false unless it is given.

    Source: TRL 1.0, trainer/sft_trainer.py, SFTTrainer.__init__ (gradient_checkpointing_kwargs.setdefault).
    """
    return release(stack.trl) >= (1, 0)


def shifts_first(stack: StackVersions) -> bool:
    """Return whether the logged entropy leaves out the last position."""
    return release(stack.trl)[:2] >= CHUNKED


def finds_bounds(stack: StackVersions) -> bool:
    """Return whether the collator finds the bounds of the samples in a flattened batch."""
    return release(stack.trl) >= BOUNDS
