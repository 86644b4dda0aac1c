"""The hooks of stage 3 in a micro-batch, which mark every call of a module."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine.module_calls import NO_GRAD, NO_GRAD_ENDS, begin, enter, external, leave, leave_with
from calculator.engine.repetition import Repetition
from calculator.layers.sharding_hooks import Unit
from calculator.methods.compared import REFERENCE as SECOND
from calculator.sharding.zero.hooks import FlatHooks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.architecture.model import Layer
    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule, Parameters
    from calculator.layers.method_hooks import Prepared
    from calculator.layers.sharding_hooks import Role
    from calculator.methods.prepared_model import PreparedModel


class Called(Unit):
    """A module with one positional argument."""

    __slots__ = ("_path",)

    def __init__(self, path: str) -> None:
        self._path = path

    def before(self, x: Tensor) -> Tensor:
        """Begin the module's call."""
        return enter(self._path, x)

    def after(self, x: Tensor) -> Tensor:
        """End the module's call."""
        return leave(self._path, x)


class CalledTwice(Called):
    """The word embeddings of a model with virtual tokens.

    They are a child of PEFT's model too, so DeepSpeed registers its hooks twice (_register_deepspeed_module).

    Source: peft/peft_model.py, PeftModel._setup_prompt_encoder.
    """

    __slots__ = ()

    def before(self, x: Tensor) -> Tensor:
        """Begin the module's call twice."""
        return enter(self._path, enter(self._path, x))

    def after(self, x: Tensor) -> Tensor:
        """End the module's call twice."""
        return leave(self._path, leave(self._path, x))


class AfterDecoder(Unit):
    """The output head. The decoder's call ends before it."""

    __slots__ = ("_model", "_paths")

    def __init__(self, paths: tuple[str, ...], model: str) -> None:
        #: The decoder, and the module around it that embeds tokens and images, if there is one.
        self._paths, self._model = paths, model

    def before(self, x: Tensor) -> Tensor:
        """End the decoder's call."""
        for path in self._paths:
            x = leave(path, x)
        return x

    def read(self, module: BoundModule, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """End the decoder's call.

        The model around it reads the head's parameters, so they become its own too.
        """
        for parameter in module.own.values():
            external(self._model, parameter)
        return module.own, self.before(x)


class PartitionedHooks(FlatHooks):
    """The hooks of stage 3, which mark calls for the coordinator."""

    __slots__ = ("_decoders", "_embeddings", "_is_child_twice", "_outer", "_runs", "_runs_first", "_tape")

    couples_layers = True
    runs_in_checkpoints = True
    calls_modules = True

    def __init__(self, prepared: Prepared, outer: tuple[str, ...], runs: str | None = None) -> None:
        super().__init__(prepared, adds=False)
        self.param_dtype = None  # modules run in the dtypes of their gathered weights
        self._embeddings = prepared.model.embedding.name
        #: The modules around the decoder, the outermost first.
        self._outer = outer
        #: Whether PEFT's model runs modules before it calls the model inside it.
        self._runs_first = prepared.method.virtual_tokens > 0
        #: Whether the word embeddings are a child of PEFT's model too.
        self._is_child_twice = self._runs_first
        #: The decoder and, in a model that reads images, the module in which it follows the embeddings and the tower.
        self._decoders = ("decoder", "model") if prepared.model.towers else ("decoder",)
        #: The name of the no-grad pass that runs inside the step. None in a pass of the trained model.
        self._runs = runs

    def begin(self, parameters: Parameters) -> None:
        """Begin the calls of the model and of the modules around it."""
        self._tape = parameters.tape
        if self._runs is not None:
            self._tape.mark(f"{NO_GRAD}{self._runs}")
        for path in self._outer[:1] if self._runs_first else (*self._outer, self._decoders[-1]):
            begin(self._tape, path)

    def begin_base(self) -> None:
        """Begin the calls inside PEFT's model, which follow its own calls of the embeddings and of its encoder."""
        for path in (*self._outer[1:], self._decoders[-1]) if self._runs_first else ():
            begin(self._tape, path)

    def begin_decoder(self) -> None:
        """Begin the call of a decoder that receives embeddings."""
        for path in self._decoders[:-1]:
            begin(self._tape, path)

    def module(self, role: Role) -> Unit:
        """Return a module outside the layers. The final norm and the head mark their own calls."""
        if role == "embeddings":
            return (CalledTwice if self._is_child_twice else Called)(self._embeddings)
        return AfterDecoder(self._decoders, self._outer[-1]) if role == "head" else super().module(role)

    def layer(self, layer: Layer) -> Unit:  # noqa: ARG002  a hook's signature
        """Return a layer. Its call is outside its checkpoint."""
        return Called("layer.*")

    def tower_layer(self, layer: Layer, stack: str) -> Unit:  # noqa: ARG002  a hook's signature
        """Return a layer of a vision tower."""
        return Called(f"{stack}.*")

    def end(self, loss: Tensor, outputs: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """End the calls of the modules around the decoder. The gradients of their outputs reach them."""
        for path in reversed(self._outer):
            loss, *outputs = leave_with(path, loss, *outputs)
        if self._runs is not None:
            self._tape.mark(NO_GRAD_ENDS)
        return loss, outputs

    def no_grad(self, prepared: Prepared, *, compared: str | None) -> PartitionedHooks:
        """Return the hooks of a no-grad pass.

        It runs a second model, which DeepSpeed shards too, or the trained model with or without its adapters.
        """
        if compared == "model":
            return PartitionedHooks(prepared, outer_modules(in_peft=False), SECOND)
        if compared == "without adapters" and self._runs_first:
            # PEFT's model then runs the forward of the model inside it in place of its own (disable_adapter).
            hooks = PartitionedHooks(prepared, self._outer[:1], "")
            hooks._is_child_twice = True
            return hooks
        return PartitionedHooks(prepared, self._outer, None if compared is None else "")


class GenerationHooks(PartitionedHooks):
    """The hooks of a pass of `generate`, which calls the model inside PEFT's. Every layer is interpreted."""

    __slots__ = ()

    def repetition(self, classes: Sequence[int]) -> Repetition:
        """Interpret every layer."""
        count = len(classes)
        return Repetition(numbers=tuple(range(count)), start=count, end=count, copies=0)


def generation_pass(prepared: PreparedModel) -> GenerationHooks:
    """Return the hooks of a pass of `generate`, which Seq2SeqTrainer calls while stage 3 gathers weights."""
    return GenerationHooks(prepared, outer_modules(in_peft=False))


def stage_3(prepared: PreparedModel) -> PartitionedHooks:
    """Return the hooks of stage 3."""
    method = prepared.method
    has_tuner = not method.virtual_tokens
    return PartitionedHooks(prepared, outer_modules(in_peft=method.facts.config_class is not None, has_tuner=has_tuner))


def outer_modules(*, in_peft: bool, has_tuner: bool = True) -> tuple[str, ...]:
    """Return the modules around the decoder: the causal language model, and PEFT's model around it, if there is one.

    PEFT's model has a tuner in between if it puts adapters into the model's layers.
    """
    if not in_peft:
        return ("causal lm",)
    return ("peft model", "tuner", "causal lm") if has_tuner else ("peft model", "causal lm")
