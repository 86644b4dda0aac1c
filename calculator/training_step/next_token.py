"""The loops of `generate` around the model's passes, which choose the next token.

Source: transformers/generation/utils.py, GenerationMixin.generate and _sample.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from calculator.trainers import image_batch

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context


#: The tensors with a type for each token, and that whose type of a new token is a zero of its own.
OF_TOKENS, _ZEROS = ("token_type_ids", "mm_token_type_ids"), "mm_token_type_ids"


class Loop(ABC):
    """The tensors of `generate` around the passes. The tensors of a token replace those of the previous token."""

    __slots__ = ("ids", "images", "kept", "logits", "mask", "positions", "tokens", "types", "unfinished")

    def __init__(self, context: Context) -> None:
        context.set_scope("generate: ")
        #: The images of the prompts, to which the callers of the loop refer too.
        self.images: list[Tensor] = []
        #: What else these refer to.
        self.kept = [*self._kept(context), *special_tokens(context)]
        self.unfinished: Tensor | None = None
        self.ids: Tensor | None = None
        self.mask: Tensor | None = None
        self.positions: Tensor | None = None
        #: The types of all tokens so far, with which a processor tells images from text.
        self.types: list[Tensor] = []
        self.logits: Tensor | None = None
        self.tokens: Tensor | None = None

    @property
    def is_first(self) -> bool:
        """Whether no token has been chosen yet."""
        return self.ids is None

    @abstractmethod
    def _kept(self, context: Context) -> list[Tensor]:
        """Allocate the tensors of the prompts that stay alive."""

    def begin(self, context: Context) -> None:
        """Allocate the tensors that the loop has before its first pass."""
        context.set_scope("generate: ")
        self.unfinished = context.tape.new((context.batch,), "int64", "unfinished_sequences")

    def after_first_token(self, context: Context) -> None:
        """Allocate the tensors that remain from the choice of the previous token."""
        seen = (context.batch, context.past + 1)
        self.ids = context.tape.new(seen, "int64", "ids")
        if context.forward.takes_positions:
            self.positions = context.tape.new(position_shape(context, seen), "int64", "positions")
        if _extends_mask(context):
            self.mask = context.tape.new(seen, "int64", "attention_mask")
        self.types = [context.tape.new(seen, "int64", name) for name in _names_of_types(context)]
        self.logits = scores(context, "next_token_logits")
        self.tokens = context.tape.new((context.batch,), "int64", "next_tokens")

    def given(self, context: Context) -> list[Tensor]:
        """Allocate the inputs of the model in addition to the ids. With prompts these are only changed positions."""
        forward, shape = context.forward, (context.batch, context.length)
        takes = forward.changes_positions if self.is_first else forward.takes_positions
        names = ["position_ids"] if takes else []
        given = [context.tape.new(position_shape(context, shape), "int64", name) for name in names]
        if not self.is_first and forward.tower is not None and forward.tower.types_new_tokens:
            given += [context.tape.new(shape, "int64", name) for name in _names_of_types(context)]
        return given

    def enter(self, inputs: list[Tensor]) -> None:  # noqa: B027  most loops keep nothing
        """Run when a pass has its inputs, which it frees."""

    def choose(self, context: Context) -> None:
        """Choose the next token."""
        longer: Shape = (context.batch, context.past + context.length + 1)
        context.set_scope("generate: ")
        before = self.mask
        if types := _names_of_types(context):
            self.types = [_appended(context, longer, name, copies=name == _ZEROS) for name in types]
        if context.forward.takes_positions:
            self.positions = _appended(context, position_shape(context, longer), "positions")
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

    __slots__ = ("probabilities", "scores")

    def _kept(self, context: Context) -> list[Tensor]:
        shape = (context.batch, context.length)
        ids = [context.tape.new(shape, "int64", name) for name in ("prompt_ids", "prompt_mask")]
        self.images = [context.tape.new(*tensor) for tensor in _images(context)]
        return [*ids, *_prompt_positions(context)]

    def begin(self, context: Context) -> None:
        """Allocate the tensors that the loop has before its first pass, and the image token, which TRL suppresses."""
        if self.images:
            self.kept.append(context.tape.new((1,), "int64", "suppress_tokens"))
        Loop.begin(self, context)

    def after_first_token(self, context: Context) -> None:
        """Allocate the tensors that remain from the choice of the previous token, including its probabilities."""
        Loop.after_first_token(self, context)
        if self.images:
            self.scores = scores(context, "next_token_scores")
        self.probabilities = scores(context, "probabilities")

    def _choose(self, context: Context) -> None:
        """Draw the next token from its logits."""
        self.logits = scores(context, "next_token_logits")
        if self.images:
            self.scores = suppressed(context)
        self._draw(context)

    def _draw(self, context: Context) -> None:
        """Draw the next token: the largest ratio of a probability to an exponential random number."""
        tape = context.tape
        self.probabilities = scores(context, "probabilities")
        quotients = scores(context, "probabilities / exponential numbers")
        drawn = tape.new((context.batch, 1), "int64", "drawn")
        del quotients
        self.tokens = tape.new((context.batch,), "int64", "next_tokens")
        del drawn


class OlderSampling(Sampling):
    """Sampling before transformers 5.0, whose `generate` refers to the inputs of a pass until the next pass.

    It has a place in the cache for each token of a pass, and finds positions from the mask.
    Source: transformers 4.57.6, generation/utils.py, _sample and prepare_inputs_for_generation.
    """

    __slots__ = ("finished", "inputs", "place")

    def _kept(self, context: Context) -> list[Tensor]:
        shape = (context.batch, context.length)
        return [context.tape.new(shape, "int64", name) for name in ("prompt_ids", "prompt_mask")]

    def begin(self, context: Context) -> None:
        """Allocate the tensors that the loop has before its first pass, and the place of each token in the cache."""
        Sampling.begin(self, context)
        self.place = context.tape.new((context.length,), "int64", "cache_position")

    def after_first_token(self, context: Context) -> None:
        """Allocate the tensors that remain from the choice of the previous token, and whether all sequences ended."""
        seen = (context.batch, context.past + 1)
        self.mask = context.tape.new(seen, "int64", "attention_mask")
        self.ids = context.tape.new(seen, "int64", "ids")
        self.tokens = context.tape.new((context.batch,), "int64", "next_tokens")
        self.finished = context.tape.new((), "bool", "this_peer_finished")
        self.logits = scores(context, "next_token_logits")
        self.probabilities = scores(context, "probabilities")

    def given(self, context: Context) -> list[Tensor]:
        """Allocate the positions, which are found from the mask."""
        shape = (context.batch, context.length)
        takes = context.forward.takes_positions
        return [context.tape.new(shape, "int64", "position_ids")] if takes else []

    def enter(self, inputs: list[Tensor]) -> None:
        """Keep the inputs of a pass."""
        self.inputs = [*inputs]

    def choose(self, context: Context) -> None:
        """Choose the next token. The mask of the pass stays until the next one."""
        longer: Shape = (context.batch, context.past + context.length + 1)
        context.set_scope("generate: ")
        before = self.mask
        self.mask = _appended(context, longer, "attention_mask")
        place = context.tape.new((1,), "int64", "cache_position of the next token")
        self._choose(context)
        self.ids = context.tape.new(longer, "int64", "ids")
        del before, place


class WarpedSampling(OlderSampling):
    """Sampling with `temperature` and `top_k`, whose warpers change the scores.

    Source: transformers 4.52.4, generation/logits_process.py, TemperatureLogitsWarper and TopKLogitsWarper.
    """

    __slots__ = ()

    def after_first_token(self, context: Context) -> None:
        """Allocate the tensors that remain from the choice of the previous token, with the changed scores."""
        OlderSampling.after_first_token(self, context)
        self.scores = scores(context, "next_token_scores")

    def _choose(self, context: Context) -> None:
        self.logits = scores(context, "next_token_logits")
        scaled = scores(context, "scores / temperature")
        most = (context.batch, min(TOP_K, +context.model.output.out_features))
        values, places = (context.tape.new(most, dtype, "most likely tokens") for dtype in _OF_TOP)
        mask = context.tape.new(scaled.shape, "bool", "less likely tokens")
        del values, places
        self.scores = scores(context, "next_token_scores")
        del scaled, mask
        self._draw(context)


#: The number of most likely tokens of WarpedSampling, and the dtypes of their scores and of their places.
TOP_K = 50
_OF_TOP: tuple[DType, DType] = ("float32", "int64")


class GreedySearch(Loop):
    """A loop that chooses the most likely token, for a caller that has the prompts as a batch of its own."""

    __slots__ = ()

    def _kept(self, context: Context) -> list[Tensor]:
        return _prompt_positions(context)

    def _choose(self, context: Context) -> None:
        self.logits = scores(context, "next_token_logits")
        self.tokens = context.tape.new((context.batch,), "int64", "next_tokens")


def _images(context: Context) -> list[tuple[Shape, DType, str]]:
    """Return the tensors of the images in the prompts: their shapes, dtypes and names."""
    given = image_batch.tensors(context.model, context.training)
    return [(shape, dtype, f"{name} of the prompts") for name, shape, dtype in given]


def _names_of_types(context: Context) -> list[str]:
    """Return the names of the tensors with a type of each token."""
    return [name for name, _, _ in image_batch.tensors(context.model, context.training) if name in OF_TOKENS]


def special_tokens(context: Context) -> list[Tensor]:
    """Allocate the special tokens of the generation config, one tensor each."""
    return [context.tape.new((), "int64", f"{name}_token_id") for name in context.forward.special_tokens]


def _prompt_positions(context: Context) -> list[Tensor]:
    if not context.forward.takes_positions:
        return []
    shape = position_shape(context, (context.batch, context.length))
    return [context.tape.new(shape, "int64", "prompt positions")]


def position_shape(context: Context, shape: Shape) -> Shape:
    """Return the shape of the position ids for (batch, sequence) tokens."""
    axes = context.forward.positions_of_token
    return shape if axes == 1 else (axes, *shape)


def _extends_mask(context: Context) -> bool:
    """Return whether the mask of the prompts gets a value for each new token.

    The mask of an encoder-decoder belongs to the source and does not.
    """
    return context.training.padding and not context.model.encoder_layers


def _appended(context: Context, shape: Shape, name: str, *, copies: bool = True) -> Tensor:
    """Return a number of each token, with that of one more token for each sequence.

    `copies`: whether the number of the new token is a tensor of its own, and no view.
    """
    more = context.tape.new((*shape[:-1], 1), "int64", f"{name}, next") if copies else None
    out = context.tape.new(shape, "int64", name)
    del more
    return out


def places_of_suppressed(context: Context) -> list[Tensor]:
    """Allocate the number of each token, and a boolean for each that says whether it is suppressed.

    Source: transformers/generation/logits_process.py, SuppressTokensLogitsProcessor.
    """
    shape = (context.model.output.out_features,)
    numbers = context.tape.new(shape, "int64", "numbers of tokens")
    return [numbers, context.tape.new(shape, "bool", "suppressed tokens")]


def suppressed(context: Context) -> Tensor:
    """Return the scores of the next token, of which those of suppressed tokens are -inf."""
    mask = places_of_suppressed(context)
    infinity = context.tape.new((), "float32", "-inf")
    out = scores(context, "next_token_scores")
    del mask, infinity
    return out


def scores(context: Context, name: str) -> Tensor:
    """Return a float32 score for each token that may come next."""
    shape = (context.batch, context.model.output.out_features)
    return context.tape.new(shape, "float32", name, component="logits_and_loss")
