"""The loops of `generate` around the model's passes, which choose the next token.

Source: transformers/generation/utils.py, GenerationMixin.generate and _sample.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context


class Loop(ABC):
    """The tensors of `generate` around the passes. The tensors of a token replace those of the previous token."""

    __slots__ = ("ids", "kept", "logits", "mask", "positions", "tokens", "unfinished")

    def __init__(self, context: Context) -> None:
        context.set_scope("generate: ")
        #: What the callers of the loop refer to.
        self.kept = [*self._kept(context), *special_tokens(context)]
        self.unfinished = context.tape.new((context.batch,), "int64", "unfinished_sequences")
        self.ids: Tensor | None = None
        self.mask: Tensor | None = None
        self.positions: Tensor | None = None
        self.logits: Tensor | None = None
        self.tokens: Tensor | None = None

    @abstractmethod
    def _kept(self, context: Context) -> list[Tensor]:
        """Allocate what stays alive of the prompts."""

    def after_first_token(self, context: Context) -> None:
        """Allocate what the choice of the previous token left."""
        seen = (context.batch, context.past + 1)
        self.ids = context.tape.new(seen, "int64", "ids")
        if context.forward.takes_positions:
            self.positions = context.tape.new(of_positions(context, seen), "int64", "positions")
        if _extends_mask(context):
            self.mask = context.tape.new(seen, "int64", "attention_mask")
        self.logits = scores(context, "next_token_logits")
        self.tokens = context.tape.new((context.batch,), "int64", "next_tokens")

    def choose(self, context: Context) -> None:
        """Choose the next token."""
        longer = (context.batch, context.past + context.length + 1)
        context.set_scope("generate: ")
        before = self.mask
        if context.forward.takes_positions:
            self.positions = _appended(context, of_positions(context, longer), "positions")
        if _extends_mask(context):
            self.mask = _appended(context, longer, "attention_mask")
        self._choose(context)
        self.ids = context.tape.new(longer, "int64", "ids")
        del before

    @abstractmethod
    def _choose(self, context: Context) -> None:
        """Choose the next token from its logits."""


class Sampling(Loop):
    """A loop that draws the next token by its probability, for a trainer that keeps the prompts."""

    __slots__ = ("probabilities",)

    def _kept(self, context: Context) -> list[Tensor]:
        shape = (context.batch, context.length)
        ids = [context.tape.new(shape, "int64", name) for name in ("prompt_ids", "prompt_mask")]
        return [*ids, *_prompt_positions(context)]

    def after_first_token(self, context: Context) -> None:
        """Allocate what the choice of the previous token left, including its probabilities."""
        Loop.after_first_token(self, context)
        self.probabilities = scores(context, "probabilities")

    def _choose(self, context: Context) -> None:
        """Draw the next token: the largest ratio of a probability to an exponential random number."""
        tape = context.tape
        self.logits = scores(context, "next_token_logits")
        self.probabilities = scores(context, "probabilities")
        quotients = scores(context, "probabilities / exponential numbers")
        drawn = tape.new((context.batch, 1), "int64", "drawn")
        del quotients
        self.tokens = tape.new((context.batch,), "int64", "next_tokens")
        del drawn


class GreedySearch(Loop):
    """A loop that chooses the most likely token, for a caller that has the prompts as a batch of its own."""

    __slots__ = ()

    def _kept(self, context: Context) -> list[Tensor]:
        return _prompt_positions(context)

    def _choose(self, context: Context) -> None:
        self.logits = scores(context, "next_token_logits")
        self.tokens = context.tape.new((context.batch,), "int64", "next_tokens")


def special_tokens(context: Context) -> list[Tensor]:
    """Allocate the special tokens of the generation config, one tensor each."""
    return [context.tape.new((), "int64", f"{name}_token_id") for name in context.forward.special_tokens]


def _prompt_positions(context: Context) -> list[Tensor]:
    if not context.forward.takes_positions:
        return []
    shape = of_positions(context, (context.batch, context.length))
    return [context.tape.new(shape, "int64", "prompt positions")]


def of_positions(context: Context, shape: Shape) -> Shape:
    """Return the shape of the position ids for (batch, sequence) tokens."""
    each = context.forward.positions_of_token
    return shape if each == 1 else (each, *shape)


def _extends_mask(context: Context) -> bool:
    """Return whether the mask of the prompts gets a value for each new token.

    The mask of an encoder-decoder belongs to the source and does not.
    """
    return context.training.padding and not context.model.encoder_layers


def _appended(context: Context, shape: Shape, name: str) -> Tensor:
    """Return the ids of all tokens, with one more token for each sequence."""
    more = context.tape.new((*shape[:-1], 1), "int64", f"{name}, next")
    out = context.tape.new(shape, "int64", name)
    del more
    return out


def scores(context: Context, name: str) -> Tensor:
    """Return a float32 score for each token that may come next."""
    shape = (context.batch, context.model.output.out_features)
    return context.tape.new(shape, "float32", name, component="logits_and_loss")
