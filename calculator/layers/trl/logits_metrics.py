"""The metrics that TRL's SFTTrainer logs from all logits: their entropy and the accuracy of the tokens.

Source: trl/trainer/sft_trainer.py, compute_loss, of TRL 0.15 to 0.24, 1.0 and 1.9;
trl/trainer/utils.py, entropy_from_logits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.engine.tape import Tensor

if TYPE_CHECKING:
    from calculator.layers.context import Context

#: The number of rows of logits of which entropy_from_logits computes the entropy at once.
ROWS = 128


def log_from_logits(context: Context, logits: Tensor, *, entropy: bool, shifts_first: bool) -> None:
    """Compute the accuracy, and the entropy if it is logged, without a graph. logits: (batch, sequence, vocab_size).

    Virtual tokens are left out. `shifts_first`: the entropy leaves out the last position too, as from TRL 1.9 on.
    """
    context.set_scope("metrics: ")
    tape, (batch, length, vocab_size) = context.tape, logits.shape
    virtual = context.method.virtual_tokens if context.method.embeds_inputs else 0
    positions = (batch, named(length - virtual - 1, "S - 1"))
    shifted = Tensor(tape, logits.storage, (batch, named(length - 1, "P + S - 1"), vocab_size), logits.dtype, None)
    labels, entropies = None, None
    if shifts_first:
        shifted = Tensor(tape, logits.storage, (*positions, vocab_size), logits.dtype, None)
        flat = _flattened(shifted)
        entropies = _entropies(flat, positions)
        del flat
    else:
        entropies = _entropies(logits, (batch, length)) if entropy else None
        shifted = _flattened(shifted)
        labels = tape.new(positions, "int64", "labels, shifted") if batch > 1 else None
    predictions = tape.new(positions, "int64", "predictions")
    mask = tape.new(positions, "bool", "labeled")
    equal = tape.new(positions, "bool", "predicted right")
    correct = tape.new(positions, "bool", "predicted right and labeled")
    del equal
    counts = [tape.new((), "int64", name) for name in ("labels", "correct tokens", "labels of all processes")]
    accuracy = [tape.new((), dtype, "accuracy") for dtype in ("int64", "float32")]
    del entropies, predictions, mask, correct, shifted, labels, counts, accuracy


def _flattened(shifted: Tensor) -> Tensor:
    """Return the logits without the last position as rows. They are a copy unless there is one sequence."""
    if shifted.shape[0] == 1:
        return shifted
    return shifted.tape.new(shifted.shape, shifted.dtype, "logits without the last")


def _entropies(logits: Tensor, shape: tuple[int, ...]) -> Tensor:
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
