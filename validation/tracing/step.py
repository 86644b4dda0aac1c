"""The reference training step, traced: zero the gradients, run the micro-batches, clip, update."""

from __future__ import annotations

import gc
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, assert_never

import torch

from validation.reference import active_layers, images
from validation.reference.embeddings import MultipleNegativesRankingLoss
from validation.reference.methods import after_step, statistics
from validation.reference.optimizers import backward, make_steady, optimizer_for, optimizer_of, step_of
from validation.reference.refusals import positions_needed
from validation.tracing.emulations.autocast import autocast
from validation.tracing.gradients import gradients_labeled
from validation.tracing.host_values import HostValues
from validation.tracing.initial_tensors import track_attributes, track_loss, track_model, track_optimizer
from validation.tracing.known_values import KnownValues
from validation.tracing.ledger import Ledger
from validation.tracing.memory_tracker import EmulatedKernels, MemoryTracker
from validation.tracing.module_tracker import ModuleTracker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.common.names import PhaseName
    from calculator.estimation.request import Request
    from validation.reference.build import ReferenceModel

#: Micro-batches to trace. Gradients are alive in all but the first, so a third would repeat the second.
TRACED_MICRO_BATCHES = 2


class Step:
    """A model's second training step, traced; the first runs untraced, so that the optimizer states exist."""

    def __init__(self, reference: ReferenceModel, request: Request, values: HostValues | None = None) -> None:
        self.reference, self.model, self.training = reference, reference.model, request.training
        self.optimizer = self._optimizer(request)
        self.draws = active_layers.draws_of(request, self.model)
        self.trainable = reference.trainable()
        shape = (self.training.micro_batch_size, self.training.sequence_length)
        self.input_ids = torch.zeros(shape, dtype=torch.long, device="meta")
        self.features = features(request, self.reference)
        self.mask = torch.ones(shape, dtype=torch.long, device="meta") if self.training.padding else None
        self.labels = labels(request, self.model.config)
        values = values or (HostValues() if self.training.has_images or self._reads_labels(request) else None)
        self.values: KnownValues | HostValues = values or KnownValues(positions_needed(request))
        self.images: dict[str, torch.Tensor] = {}
        #: The loss of a task whose model computes none, and the texts of its examples: ids and a mask of each.
        self.compare: MultipleNegativesRankingLoss | None = None
        self.texts: list[tuple[torch.Tensor, torch.Tensor]] = []
        if request.task == "feature_extraction":
            self.compare = MultipleNegativesRankingLoss(self.model, passes_mask=self.training.padding)
            self.texts = self._texts()
        if values is not None:
            self._know(values, request)
        self.ledger: Ledger[PhaseName] = Ledger()
        modules = ModuleTracker(self.model, reference.root)
        self.tracker = MemoryTracker(self.ledger, modules, reference.head, self.values)

    def _know(self, values: HostValues, request: Request) -> None:
        """Make the values of the batch known, and those that come with its images."""
        config = self.model.config
        if self.training.has_images:
            self.images = images.known_batch(values, request, config, self.input_ids, self.mask)
        else:
            values.know(self.input_ids, torch.full(self.input_ids.shape, images.ordinary_token(config)))
        for labeled in self.labels.values():
            values.know(labeled, torch.zeros(labeled.shape, dtype=labeled.dtype))

    def _reads_labels(self, request: Request) -> bool:
        """Return whether the model's own code selects the sequences that have a label."""
        return request.task == "seq_cls" and self.model.config.model_type == "deberta-v2"

    def _optimizer(self, request: Request) -> torch.optim.Optimizer:
        if active_layers.is_badam(request):
            base = partial(optimizer_for, self.training.optimizer)
            return active_layers.block_optimizer(request, self.model, base)
        return optimizer_of(self.training, self.model)

    def run(self) -> None:
        """Run the first step, then trace the second. LISA's steps reach every layer before."""
        for _ in range(self.draws.steps if self.draws is not None else 1):
            self._run_first()
        if self.draws is not None:
            self.draws.on_step_begin()
            self.trainable = self.reference.trainable()
        self._track_initial_tensors()
        with no_garbage_collection(), gradients_labeled(self.tracker, self.trainable), self.tracker.tracking():
            for _ in range(min(TRACED_MICRO_BATCHES, self.training.gradient_accumulation_steps)):
                self.tracker.enter("forward")
                self.loss = self._forward()
                self.tracker.enter("backward")
                backward(self.optimizer, self.loss)
            self.gradients = self.tracker.live_bytes("gradients")
            self.tracker.enter("optimizer_step")
            self._update()

    def static(self) -> dict[str, int]:
        """Return bytes of the tensors that stay through the step, by component, and of the gradients."""
        return {**self.ledger.static(), "gradients": self.gradients}

    def _run_first(self) -> None:
        if self.draws is not None:
            self.draws.on_step_begin()
        with EmulatedKernels(self.values):
            self.loss = self._forward()
            backward(self.optimizer, self.loss)
            step_of(self.optimizer)
            after_step(self.model)
        make_steady(self.optimizer)
        self.optimizer.zero_grad(set_to_none=True)

    def _track_initial_tensors(self) -> None:
        track_model(self.tracker, self.reference)
        track_attributes(self.tracker, self.reference)
        track_optimizer(self.tracker, self.optimizer, self.trainable)
        for name, tensor in statistics(self.model):
            self.tracker.track_external(name, tensor, "optimizer_states")
        columns = {f"text {n}.{i}": column for n, text in enumerate(self.texts) for i, column in enumerate(text)}
        batch = {**({} if columns else self._inputs()), **self.labels, **self.images, **columns}
        for name, tensor in batch.items():
            if tensor is not None:
                self.tracker.track_external(name, tensor, "activations")
        track_loss(self.tracker, self.loss)

    def _forward(self) -> torch.Tensor:
        with ExitStack() as stack:
            if self.training.autocast:
                stack.enter_context(autocast("meta", getattr(torch, self.training.autocast)))
            if self.compare is not None:
                return self.compare(self.texts)
            labels = self.labels or {"labels": self.input_ids}
            return self.model(**self._inputs(), **labels, **self.images).loss

    def _texts(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return the texts of the examples. The first has the ids for which the trace knows values."""
        others = [torch.zeros_like(self.input_ids) for _ in range(self.training.texts_per_example - 1)]
        return [(ids, torch.ones_like(ids)) for ids in (self.input_ids, *others)]

    def _inputs(self) -> dict[str, torch.Tensor | None]:
        """Return tokens with their mask, or the features of images or audio."""
        return self.features or {"input_ids": self.input_ids, "attention_mask": self.mask}

    def _update(self) -> None:
        if self.training.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(list(self.trainable.values()), self.training.max_grad_norm, foreach=True)
        step_of(self.optimizer)
        after_step(self.model)


def features(request: Request, reference: ReferenceModel) -> dict[str, torch.Tensor | None]:
    """Return the features of a batch of images or audio by their name; none for a batch of tokens.

    Pixels are in float32, as their processor makes them. Features of audio have the dtype of the first convolution,
    which does not cast them.
    """
    config: Any = reference.model.config
    batch = request.training.micro_batch_size
    if request.task == "image_cls":
        side = config.image_size
        return {"pixel_values": torch.zeros((batch, config.num_channels, side, side), device="meta")}
    if request.task == "seq_2_seq_lm" and hasattr(config, "num_mel_bins"):
        shape = (batch, config.num_mel_bins, 2 * config.max_source_positions)
        weight = dict(reference.model.named_modules())[f"{reference.root}.model.encoder.conv1".lstrip(".")].weight
        return {"input_features": torch.zeros(shape, dtype=weight.dtype, device="meta")}
    return {}


def labels(request: Request, config: Any) -> dict[str, torch.Tensor]:
    """Return the labels of a batch by their names; none if the tokens are the labels.

    Targets have the length of sources, or of audio the most that the model has positions for.
    """
    training = request.training
    batch, length = training.micro_batch_size, training.sequence_length
    match request.task:
        case "causal_lm" | "feature_extraction":
            return {}
        case "seq_cls" | "image_cls":
            return {"labels": _labels_of_sequences(request)}
        case "token_cls":
            return {"labels": _whole_numbers(batch, length)}
        case "question_ans":
            return {name: _whole_numbers(batch) for name in ("start_positions", "end_positions")}
        case "seq_2_seq_lm":
            longest = getattr(config, "max_target_positions", length)
            return {"labels": _whole_numbers(batch, training.target_length or longest)}
        case _ as never:
            assert_never(never)


def _whole_numbers(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.long, device="meta")


def _labels_of_sequences(request: Request) -> torch.Tensor:
    """Return a number for each sequence, or one for each output."""
    task, batch = request.model.task, request.training.micro_batch_size
    if task.loss == "single_label_classification":
        return _whole_numbers(batch)
    shape = (batch,) if task.loss == "regression" and task.num_labels == 1 else (batch, task.num_labels)
    return torch.zeros(shape, dtype=getattr(torch, request.training.dtype), device="meta")


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Turn Python's cycle collector off, so that it frees no tensor at an arbitrary moment."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
