"""The passes of Whisper's `generate` for audio of at most 30 seconds, inside the evaluation of its trainer.

The features are cut into a segment, which is a copy of them, and the decoder starts with the tokens of a language and a
task, as the generation_config.json of OpenAI's checkpoints has them. The scores of tokens in two lists become -inf.

Source: transformers/models/whisper/generation_whisper.py, WhisperGenerationMixin.generate; and
transformers/generation/logits_process.py, SuppressTokensAtBeginLogitsProcessor and SuppressTokensLogitsProcessor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.trainers.task_labels import inputs
from calculator.training_step.next_token import places_of_suppressed, scores, special_tokens, suppressed
from calculator.training_step.seq2seq_generation import Seq2SeqGeneration, TargetLoop

if TYPE_CHECKING:
    from calculator.architecture.dimension import Dim
    from calculator.architecture.model import Model
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context
    from calculator.methods.prepared_model import PreparedModel

#: The number of tokens that the decoder of an English-only model starts with.
ENGLISH_PROMPT = 2

#: The vocabulary size of English-only checkpoints, whose tokenizer has one token fewer.
_ENGLISH = 51_864


def prompt_tokens(model: Model) -> Dim:
    """Return the number of tokens that the decoder starts with.

    They are the start token, the language, the task, and the token for no timestamps. English-only models have no
    language and no task.
    """
    return named(ENGLISH_PROMPT if model.config["vocab_size"] == _ENGLISH else 4, "P")


class AudioGeneration(Seq2SeqGeneration):
    """Greedy search for the text of a batch of audio."""

    __slots__ = ()

    def __init__(self, prepared: PreparedModel) -> None:
        super().__init__(prepared)
        self.prompt = prompt_tokens(prepared.model)

    def loop(self, context: Context) -> TargetLoop:
        """Begin greedy search with suppressed tokens."""
        return AudioLoop(context)

    def kept(self, context: Context) -> list[Tensor]:
        """Allocate the decoder's first tokens, the suppressed tokens, and those of the generation config."""
        return [*_caller_tensors(context), *special_tokens(context)]

    def source(self, context: Context) -> Tensor:
        """Copy the features into a segment."""
        ((_, shape, dtype),) = inputs(context.model, context.training, (), context.dtype)
        return context.tape.new(shape, dtype, "segment of input_features")


class AudioLoop(TargetLoop):
    """Greedy search with suppressed tokens."""

    __slots__ = ("scores",)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        #: The scores of the next token, in which tokens are suppressed.
        self.scores: Tensor | None = None

    def _kept(self, context: Context) -> list[Tensor]:
        return _caller_tensors(context)

    def starts(self, context: Context, *, is_last: bool) -> None:  # noqa: ARG002  the signature of the base class
        """Allocate nothing, because the caller has allocated the first tokens."""
        self.forces = False

    def after_first_token(self, context: Context) -> None:
        """Allocate the tensors that remain from the choice of the previous token, including its scores."""
        super().after_first_token(context)
        self.scores = scores(context, "next_token_scores")

    def _choose(self, context: Context) -> None:
        """Choose the next token by its scores. The tokens of both lists are suppressed one list after the other."""
        self.logits = scores(context, "next_token_logits")
        at_begin = None if context.past else suppressed(context)
        if context.past:
            places_of_suppressed(context)
        self.scores = suppressed(context)
        del at_begin
        self.tokens = context.tape.new((context.batch,), "int64", "next_tokens")


def _caller_tensors(context: Context) -> list[Tensor]:
    tape, shape = context.tape, (context.batch, prompt_tokens(context.model))
    lists = [tape.new((), "int64", name) for name in ("suppress_tokens", "begin_suppress_tokens")]
    return [*lists, *(tape.new(shape, "int64", name) for name in ("init_tokens", "decoder_input_ids"))]
