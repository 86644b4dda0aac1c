"""Generation in an evaluation: the tokens of each batch, and the passes that generate them.

Source: transformers 5.24, trainer_seq2seq.py, Seq2SeqTrainer.prediction_step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.common.dtype import allocated
from calculator.estimation.answer import Row
from calculator.families import forward_of
from calculator.run.gathered import OfRow
from calculator.trainers.loop import GenerationBatch
from calculator.trainers.transformers.loop import Transformers
from calculator.training_step.audio_generation import AudioGeneration, prompt_tokens
from calculator.training_step.next_token import GreedySearch
from calculator.training_step.rollout import Rollout
from calculator.training_step.seq2seq_generation import Seq2SeqGeneration
from calculator.training_step.zero3.generation import PartitionedRollout

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from calculator.architecture.dimension import Dim
    from calculator.engine.tape import Tensor
    from calculator.inputs.run import RunSettings
    from calculator.layers.context import Context
    from calculator.methods.prepared_model import PreparedModel
    from calculator.training_step.generation import PassPeak

SOURCE = "transformers/trainer_seq2seq.py, prediction_step"

#: The length to which shorter targets and labels are padded: max_length of a GenerationConfig that sets none. Source:
#: transformers/generation/configuration_utils.py, _get_default_generation_params.
DEFAULT_LENGTH = 20


class LossOfLabels(Transformers):
    """A call of the model with a batch's labels, which are not counted."""

    __slots__ = ()

    def batch(self, context: Context) -> list[Tensor]:
        """Return the tensors of a batch, without the number of its labels."""
        tensors = Transformers.batch(self, context)
        context.num_items = None
        return tensors

    def scaled(self, context: Context, loss: Tensor) -> Tensor:  # noqa: ARG002  the signature of the base class
        """Return the loss itself."""
        return loss


def most_tokens(run: RunSettings) -> int:
    """Return the maximum number of tokens of a generated sequence. A request with generation sets it."""
    assert run.generation_max_length is not None
    return run.generation_max_length


def _padded(tokens: int) -> Dim:
    return named(max(tokens, DEFAULT_LENGTH), "tokens")


def generated_tokens(run: RunSettings) -> OfRow:
    """Return a row's generated tokens."""
    return OfRow("generated tokens", (_padded(most_tokens(run)),), "int64")


def padded(labels: Iterable[OfRow]) -> tuple[OfRow, ...]:
    """Return a row's labels."""
    return tuple(label._replace(shape=(_padded(int(label.shape[0])),)) for label in labels)


def batch_row(part: OfRow, rows: int) -> Row:
    """Return the tensor of a batch."""
    shape = (named(rows, "rows"), *part.shape)
    size = allocated(part.bytes * rows, 1)
    return Row.build(
        name=f"{part.name} of the batch", count=1, bytes=size, shape=shape, dtype=part.dtype, source=SOURCE
    )


def rope_deltas(prepared: PreparedModel, rows: int) -> Iterator[Row]:
    """Yield the position offsets that a model with several position axes keeps from its last generation."""
    if forward_of(prepared.model).positions_of_token > 1:
        yield batch_row(OfRow("rope_deltas", (1,), "int64"), rows)


def passes(prepared: PreparedModel, run: RunSettings, *, is_first: bool) -> tuple[PassPeak, ...]:
    """Run `generate` on a batch. The prepared model's training has the rows and tokens.

    `is_first`: whether no other batch of the evaluation ran before it.
    """
    training, tokens = prepared.training, most_tokens(run)
    if prepared.model.reads_audio:
        return AudioGeneration(prepared).passes(prompt_tokens(prepared.model) + tokens)
    if prepared.model.encoder_layers:
        return Seq2SeqGeneration(prepared).passes(tokens)
    prompt = named(training.sequence_length, "S")
    batch = GenerationBatch(
        rows=named(training.micro_batch_size, "B"),
        prompt=prompt,
        completion=named(tokens - prompt, "generation_max_length - S"),
    )
    rollout = PartitionedRollout if prepared.device.sharding == "zero3" else Rollout
    ran = rollout(prepared, batch, trains=False, loop=GreedySearch, is_first=is_first).passes()
    return tuple(pass_.measured(pass_.interpretation.run()) for pass_ in ran)
