"""The forward passes of a micro-batch: with a graph, and under torch.no_grad for a reference model."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

from calculator.engine import autocast
from calculator.engine.layer_loop import LayerLoop
from calculator.engine.recorded_passes import named
from calculator.engine.repetition import every_layer
from calculator.engine.tape import Tensor
from calculator.layers.context import Context
from calculator.layers.sharding_hooks import NO_HOOKS
from calculator.methods.compared import WithFrozenAdapters, compared_model, is_like_second
from calculator.trainers import trainer_of
from calculator.trainers.liger import forward_for, forward_of_second
from calculator.training_step.derived_passes import (
    UnknownPeaksError,
    are_peaks_known,
    is_symbolic,
    lists_every_adapter,
    may_derive_peaks,
)
from calculator.training_step.first_period import leave_out
from calculator.training_step.like_trained_pass import may_derive_generation
from calculator.training_step.repeated_layers import with_repeated_period
from calculator.training_step.skipped_passes import may_be_skipped
from calculator.training_step.skipped_references import cannot_be_peak, has_known_peak, may_derive_reference

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.architecture.dimension import Dim
    from calculator.common.names import ComponentName
    from calculator.engine.recorded_passes import Outputs
    from calculator.engine.repetition import Repetition
    from calculator.engine.skipped_passes import SkippedPasses
    from calculator.engine.tape import Tape
    from calculator.layers.decoder_forward import DecoderForward
    from calculator.layers.trl.fused_head import FusedHead
    from calculator.methods.prepared_model import PreparedModel
    from calculator.trainers.loop import Compared


#: The prefix of the names of rows and marks of a method's no-grad pass.
PREFIX = "first pass: "


class Forward(Protocol):
    """A forward pass of the whole model, which returns the loss and the other outputs."""

    def __call__(self, context: Context, *, ids: Tensor = ...) -> tuple[Tensor, list[Tensor]]:
        """Run the model of a context on the ids of the batch, or on other ids."""


class ModelPasses:
    """The forward passes of one micro-batch."""

    __slots__ = ("context", "forward")

    def __init__(self, context: Context, forward: Forward) -> None:
        self.context = context
        self.forward = forward

    def __call__(self, ids: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Run the trained model on the ids of the batch, or on other ids."""
        self._begin()
        context, skipped = self.context, self.context.skipped
        prepared: PreparedModel = context.prepared  # type: ignore[assignment]  # a step's model is prepared
        if skipped is not None:
            _begin_trained(context, prepared, skipped)
        outputs = self.forward(context) if ids is None else self.forward(context, ids=ids)
        if skipped is not None:
            skipped.end_trained(context.tape)
            if skipped.needs_peaks and skipped.passes and not are_peaks_known(context, skipped):
                raise UnknownPeaksError
        return outputs

    def run_again(self, name: str, ids: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Run the trained model once more, on other ids. `name` is the prefix of its marks."""
        self._begin()
        outer = self.context
        prepared: PreparedModel = outer.prepared  # type: ignore[assignment]  # a step's model is prepared
        context = Context(prepared, outer.forward, hooks=outer.hooks, tape=outer.tape, parameters=outer.parameters)
        context.marks, context.is_reentrant = name, outer.is_reentrant
        return self.forward(context, ids=ids)

    def no_grad(self, name: str, *, reference: bool) -> tuple[Tensor, list[Tensor]]:
        """Run the trained model or its reference model under no_grad.

        `name` is the prefix of the names of rows and marks. A reference, and what scores completions before a step, are
        models that no sharding wraps.
        """
        outer, tape = self.context, self.context.tape
        if not reference and not trainer_of(outer.training).facts.generates:
            self._begin()
        prepared: PreparedModel = outer.prepared  # type: ignore[assignment]  # a step's model is prepared
        skips = not outer.unrolls and not prepared.recorded_passes.are_replayed
        compared = trainer_of(prepared.training).compared(prepared) if reference else None
        skipped = outer.skipped
        if skipped is not None and not _is_skipped(outer, prepared, compared, skipped, reference=reference):
            skipped = None
        head = trainer_of(prepared.training).fused_head(compared)
        if skipped is not None and head is not None:
            return self._skipped(name, compared, skipped, head)
        run = partial(self._run, prepared, name, compared, skips=skips)
        layers: Repetition | None
        if outer.hooks is not NO_HOOKS or (outer.unrolls and not outer.repeats_layers):
            outputs, layers = named(tape, name, run)
        else:
            key = reference, tape.trains, tape.scope, autocast.state(tape), skips
            known = prepared.recorded_passes
            outputs, layers = known.run(tape, name, (prepared.training, key), run, lists_all=outer.unrolls)
        if layers is not None:
            outer.passes.append((name, with_repeated_period(layers) if outer.repeats_layers else layers))
        return outputs

    def _begin(self) -> None:
        """Run the operations of a sharding before the first pass of the model that it wraps."""
        before, self.context.before_first_pass = self.context.before_first_pass, None
        if before is not None:
            before(self.context.tape)

    def _skipped(self, name: str, compared: Compared | None, skipped: SkippedPasses, head: FusedHead) -> Outputs:
        """Return the outputs of a skipped pass."""
        context, tape = self.context, self.context.tape
        skipped.begin(tape, name, compared, context.dtype)
        with _NoGrad(tape, in_eval_mode=False):
            tape.component = "logits_and_loss"
            outputs = head.allocate_outputs(context, name)
            tape.component = "activations"
        return outputs

    def _run(
        self,
        prepared: PreparedModel,
        name: str,
        compared: Compared | None,
        *,
        skips: bool,
    ) -> tuple[Outputs, Repetition]:
        context = _context(self.context, prepared, compared, name)
        before = _Recorded.from_tape(context.tape)
        if skips:
            leave_out(context)
        with _NoGrad(context.tape, in_eval_mode=compared == "model"):
            outputs = self._forward(context, compared)
            if context.first_period_differs:
                del outputs, context
                before.restore(self.context.tape)
                context = _context(self.context, prepared, compared, name)
                outputs = self._forward(context, compared)
        return outputs, context.repetition

    def _forward(self, context: Context, compared: Compared | None) -> Outputs:
        """Run the model of a context on the ids of the batch, or on those of all rows of a step."""
        if _rows(self.context, compared) is None:
            return self.forward(context)
        shape = (context.batch, context.length)
        return self.forward(context, ids=Tensor(context.tape, None, shape, "int64", None))


def _begin_trained(context: Context, prepared: PreparedModel, skipped: SkippedPasses) -> None:
    """Mark where the trained pass begins, if passes before it were skipped, or passes after it may be."""
    skipped.traces_later_passes = may_derive_reference(context, prepared) and (
        skipped.needs_peaks or not is_symbolic(context)
    )
    lists_added = skipped.traces_later_passes or (skipped.needs_peaks and bool(skipped.passes))
    derives = skipped.needs_peaks or (lists_added and trainer_of(context.training).compared(prepared) == "model")
    generates = skipped.needs_peaks and may_derive_generation(prepared)
    if (derives and lists_added) or generates:
        is_possible = may_derive_peaks(context, prepared)
        derives, generates = derives and lists_added and is_possible, generates and is_possible
    skipped.begin_trained(context.tape, lists_added=lists_added, derives=derives and lists_added, generates=generates)


def _is_skipped(
    context: Context, prepared: PreparedModel, compared: Compared | None, skipped: SkippedPasses, *, reference: bool
) -> bool:
    """Return whether a no-grad pass is left out. `context` is the context of the trained pass."""
    if may_be_skipped(context, prepared, compared):
        is_listed = compared != "without adapters" or lists_every_adapter(context)
        return not skipped.needs_peaks or (is_listed and may_derive_peaks(context, prepared))
    if not reference or compared is None or not skipped.traces_later_passes:
        return False
    if skipped.needs_peaks or compared == "model":
        return has_known_peak(context, skipped, compared)
    return cannot_be_peak(context, skipped)


class _Recorded(NamedTuple):
    """The counts of rows, events and marks on a tape before a pass."""

    rows: int
    events: int
    marks: int
    loops: int
    copies: int
    component: ComponentName

    @classmethod
    def from_tape(cls, tape: Tape) -> _Recorded:
        """Return the counts of what is on a tape, and its component."""
        copies = 0 if tape.autocast is None else len(tape.autocast.copies)
        return cls(len(tape.rows), len(tape.events), len(tape.marks), len(tape.loops), copies, tape.component)

    def restore(self, tape: Tape) -> None:
        """Remove a pass from a tape, of which no tensor is alive except autocast's copies."""
        while tape.autocast is not None and len(tape.autocast.copies) > self.copies:
            tape.autocast.copies.popitem()
        del tape.rows[self.rows :], tape.events[self.events :], tape.marks[self.marks :], tape.loops[self.loops :]
        tape.component = self.component


def _context(outer: Context, prepared: PreparedModel, compared: Compared | None, name: str) -> Context:
    """Return the context of a pass on the tape of the step."""
    forward = forward_for(prepared.model, prepared.training)
    if compared is not None:
        checkpoints = compared != "model" and trainer_of(prepared.training).reference_checkpoints(prepared)
        training = prepared.training if checkpoints else prepared.training.without_checkpointing
        forward = forward_of_second(prepared.model, training) if compared == "model" else forward
        dtype = prepared.param_dtype
        prepared = compared_model(prepared.for_run(training, prepared.device), compared)
        prepared.param_dtype = dtype
    hooks = outer.hooks.no_grad(prepared, compared=compared)
    classes = outer.classes if hooks is NO_HOOKS and _has_classes_of(outer, forward, compared) else None
    context = Context(prepared, forward, hooks=hooks, tape=outer.tape, classes=classes)
    context.marks, context.compared, context.images = name, compared, outer.images
    rows = _rows(outer, compared)
    if rows is not None:
        context.batch = rows
    if compared == "model" and trainer_of(outer.training).copies_reference(prepared.stack):
        grads = trainer_of(outer.training).grads_inputs_of_all_passes(outer.training, prepared.stack)
        context.grads_inputs = context.grads_inputs or grads
    context.unsets_cache = compared == "model" and trainer_of(outer.training).unsets_cache(
        outer.training, prepared.stack
    )
    if compared not in (None, "model"):
        # The hook of enable_input_require_grads stays on a model whose checkpointing is off for a pass.
        context.grads_inputs = outer.grads_inputs
    context.router_logits = None  # trainers read the router loss of the trained pass only
    if context.tape.calls_modules and not outer.repetition.copies:
        # Stage 3 has one order of modules in all passes.
        context.repetition = every_layer(len(context.model.decoder.layers))
    elif outer.unrolls and not outer.repeats_layers and (fills_cache(prepared) or context.tape.calls_modules):
        context.repetition = every_layer(len(context.model.decoder.layers))
    elif outer.unrolls and not outer.repeats_layers:
        context.layer_loop = LayerLoop(context.tape, context.repetition, len(context.layers))
        context.repetition = context.layer_loop.repetition
    return context


def _rows(outer: Context, compared: Compared | None) -> Dim | None:
    """Return the number of rows of a reference's pass, or None if it is that of a micro-batch."""
    if compared is None:
        return None
    return trainer_of(outer.training).rows_of_reference(outer.training, outer.prepared.stack)


def _has_classes_of(outer: Context, forward: DecoderForward, compared: Compared | None) -> bool:
    """Return whether the layers of a pass differ from one another as those of the trained pass do.

    A second model has the same modules if the model is trained whole. It offloads nothing.
    """
    if compared != "model" or forward is not outer.forward:
        return compared is None
    prepared: PreparedModel = outer.prepared  # type: ignore[assignment]  # a step's model is prepared
    return is_like_second(prepared) and not prepared.offloads_inputs and not prepared.offloads_activations


def run_no_grad_first(outer: Context, forward: Callable[[Context], Outputs]) -> None:
    """Run the trained model under no_grad for a method that reads its hidden states, and keep all of them."""
    prepared: PreparedModel = outer.prepared  # type: ignore[assignment]  # a step's model is prepared
    context = _context(outer, WithFrozenAdapters(prepared), None, PREFIX)
    context.repetition, context.layer_loop = every_layer(len(context.layers)), None
    context.hidden_states, context.num_items = [], outer.num_items
    context.method.before_no_grad_pass(context)
    with _NoGrad(context.tape, in_eval_mode=False):
        outputs, _ = named(context.tape, PREFIX, lambda: (forward(context), context.repetition))
    context.method.after_no_grad_pass(outer, context.hidden_states[-1])
    del outputs


def fills_cache(prepared: PreparedModel) -> bool:
    """Return whether a prefix fills the cache of every layer before the first one runs.

    No two layers are then equal.
    """
    return prepared.method.virtual_tokens > 0 and not prepared.method.embeds_inputs


class _NoGrad:
    """Runs a block under no_grad. In eval mode, dropout does nothing."""

    __slots__ = ("_outer", "_tape", "_trains")

    def __init__(self, tape: Tape, *, in_eval_mode: bool) -> None:
        self._tape = tape
        self._outer = tape.grad_enabled, tape.trains, tape.scope
        self._trains = tape.trains and not in_eval_mode

    def __enter__(self) -> None:
        self._tape.grad_enabled, self._tape.trains = False, self._trains

    def __exit__(self, *_: object) -> None:
        self._tape.grad_enabled, self._tape.trains, self._tape.scope = self._outer
