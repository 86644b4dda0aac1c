"""The metrics that TRL's SFTTrainer logs from all logits: their entropy and the accuracy of the tokens.

Source: trl/trainer/sft_trainer.py, compute_loss, of TRL 0.15 to 0.24, 1.0 and 1.9;
trl/trainer/utils.py, entropy_from_logits, of TRL 0.22 to 0.24.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from calculator.architecture.dimension import named
from calculator.engine.tape import Tensor

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.layers.context import Context

#: Of which logits entropy_from_logits computes the entropy at once: of some rows, or of a sequence as in TRL 0.22.
Chunks = Literal["rows", "sequences"]

#: The number of rows of logits of which entropy_from_logits computes the entropy at once.
ROWS = 128


def log_from_logits(
    context: Context, logits: Tensor, *, entropy: Chunks | None, float_mask: bool, shifts_first: bool
) -> None:
    """Compute the accuracy, and the entropy if it is logged, under no_grad. logits: (batch, sequence, vocab_size).

    Virtual tokens are left out. `entropy`: of how many logits it is computed at once. `float_mask`: whether the
    attention mask that weights it is copied to float32, as in TRL 0.22 and 0.23. `shifts_first`: the entropy leaves
    out the last position too, as from TRL 1.9 on.
    """
    context.set_scope("metrics: ")
    tape, (batch, length, vocab_size) = context.tape, logits.shape
    virtual = context.method.virtual_tokens if context.method.embeds_inputs else 0
    positions = (batch, named(length - virtual - 1, "S - 1"))
    shifted = Tensor(tape, logits.storage, (batch, named(length - 1, "P + S - 1"), vocab_size), logits.dtype, None)
    labels, entropies, masks = None, None, None
    if shifts_first:
        shifted = Tensor(tape, logits.storage, (*positions, vocab_size), logits.dtype, None)
        flat = _flattened(shifted)
        entropies = entropies_by_rows(flat, positions)
        del flat
    else:
        entropies = _entropies_of(logits, entropy, (batch, length))
        masks = _float_masks(context, (batch, length), virtual) if float_mask else None
        shifted = _flattened(shifted)
        labels = tape.new(positions, "int64", "labels, shifted") if batch > 1 else None
    predictions = tape.new(positions, "int64", "predictions")
    mask = tape.new(positions, "bool", "labeled")
    equal = tape.new(positions, "bool", "predicted right")
    correct = tape.new(positions, "bool", "predicted right and labeled")
    del equal
    counts = [tape.new((), "int64", name) for name in ("labels", "correct tokens", "labels of all processes")]
    accuracy = [tape.new((), dtype, "accuracy") for dtype in ("int64", "float32")]
    del entropies, masks, predictions, mask, correct, shifted, labels, counts, accuracy


def _flattened(shifted: Tensor) -> Tensor:
    """Return the logits without the last position as rows. They are a copy unless there is one sequence."""
    if shifted.shape[0] == 1:
        return shifted
    return shifted.tape.new(shifted.shape, shifted.dtype, "logits without the last")


def _float_masks(context: Context, shape: Shape, virtual: int) -> list[Tensor]:
    """Return the mask of the virtual tokens, if there are any, and the float32 mask of all tokens."""
    tape, (batch, _) = context.tape, shape
    ones = [tape.new((batch, named(virtual, "P")), "float32", "mask of virtual tokens")] if virtual else []
    return [*ones, tape.new(shape, "float32", "mask of all tokens")]


def _entropies_of(logits: Tensor, chunks: Chunks | None, shape: Shape) -> Tensor | None:
    """Return the entropies of all positions, or None if they are not logged."""
    match chunks:
        case None:
            return None
        case "rows":
            return entropies_by_rows(logits, shape)
        case "sequences":
            return entropies_by_sequence(logits, shape)


def entropies_by_sequence(logits: Tensor, shape: Shape) -> Tensor:
    """Return the entropy of each position, computed from one sequence at once."""
    tape, dtype, (batch, length) = logits.tape, logits.dtype, shape
    before: list[Tensor] = []
    log_p = None
    for _ in range(batch):
        log_p = tape.scratch((length, logits.shape[-1]), dtype, "log-probabilities of a sequence")
        p = tape.scratch((length, logits.shape[-1]), dtype, "probabilities of a sequence")
        product = tape.scratch((length, logits.shape[-1]), dtype, "p · log p of a sequence")
        del p
        summed = tape.scratch((length,), dtype, "negative entropies")
        del product
        before.append(tape.scratch((length,), dtype, "entropies of a sequence"))
        del summed
    entropies = tape.new(shape, dtype, "entropies")
    del before, log_p
    return entropies


def entropies_by_rows(logits: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the entropy of each row of logits, computed from some rows at once.

    Two rounds show how their temporaries overlap. In the last one, the entropies of earlier rows have a block each.
    """
    tape, dtype, vocab_size = logits.tape, logits.dtype, logits.shape[-1]
    rows = shape[0] * shape[1]
    log_p, before = None, []
    rounds = rows // ROWS
    if rounds > 1:
        before = [tape.scratch((rounds - 1, ROWS), "float32", "entropies of earlier rows")]
    for _ in range(2 if rows > ROWS else 1):
        some = (min(ROWS, rows), vocab_size)
        log_p = tape.scratch(some, dtype, "log-probabilities of some rows")
        p = tape.scratch(some, dtype, "probabilities of some rows")
        product = tape.scratch(some, dtype, "p · log p of some rows")
        del p
        summed = tape.scratch(some[:1], dtype, "negative entropies")
        del product
        tape.scratch(some[:1], dtype, "entropies of some rows")
        del summed
    parts = tape.new(shape, dtype, "entropies by rows")
    entropies = tape.new(shape, dtype, "entropies")
    del parts, log_p, before
    return entropies
