"""A trace of a torchtune recipe's own step: its real `train()` runs on the meta device."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from pkgutil import resolve_name
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torchao.dtypes.nf4tensor import NF4Tensor

from validation.reference.build import ReferenceModel, size_of
from validation.reference.optimizers import make_steady, optimizers_on_meta, states
from validation.torchtune_recipes.recipe import STEPS, build
from validation.tracing.emulations import EMULATIONS
from validation.tracing.gradients import gradients_labeled
from validation.tracing.host_values import HostValues
from validation.tracing.ledger import Ledger
from validation.tracing.memory_tracker import MemoryTracker
from validation.tracing.module_tracker import ModuleTracker
from validation.tracing.shims import emulate_cuda
from validation.tracing.step import no_garbage_collection
from validation.tracing.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from calculator.common.names import ComponentName, PhaseName
    from calculator.estimation.request import Request


def _rope_init(rope: Any) -> None:
    """Make the tables of scaled rotary embeddings, without the scaling, which reads frequencies."""
    rope.register_buffer("theta", 1.0 / rope.base ** (torch.arange(0, rope.dim, 2) / rope.dim), persistent=False)
    rope.build_rope_cache(rope.max_seq_len)
    rope.is_cache_built = True


#: What a run on the meta device replaces: a question about the GPU, its statistics, and tables that read values.
REPLACED: dict[str, Callable[..., Any]] = {
    "torchtune.training.precision.verify_bf16_support": lambda: True,
    "torchtune.training.get_memory_stats": lambda **_: {},
    "torchtune.training.log_memory_stats": lambda *_: None,
    "torchtune.models.llama3_1._position_embeddings.Llama3ScaledRoPE.rope_init": _rope_init,
}

#: The tensors inside an NF4Tensor that are no weights.
CONSTANTS = ("quantized_scalers", "quantization_factor", "scaler_mean", "nf4")


def trace(request: Request) -> Trace:
    """Run a recipe's `train()` on the meta device and record every storage of its last step.

    Raises:
        PlanError: if torchtune has no such model.
    """
    with (
        emulate_cuda(known_values=True),
        optimizers_on_meta(request.training.optimizer),
        TemporaryDirectory() as folder,
        ExitStack() as stack,
    ):
        for path, replacement in REPLACED.items():
            stack.enter_context(mock.patch(path, replacement))
        run = RecipeStep(build(request, folder), request)
        run.run()
    return Trace(
        parameters=run.reference.parameter_counts(), static=run.static(), ledger=run.ledger, emulations=EMULATIONS
    )


class RecipeStep:
    """A recipe's last step, traced. The one before creates the optimizer states."""

    def __init__(self, recipe: Any, request: Request) -> None:
        self.recipe, self.training = recipe, request.training
        self.reference = _reference(recipe._model)
        self.trainable = self.reference.trainable()
        self.ledger: Ledger[PhaseName] = Ledger()
        modules = ModuleTracker(self.reference.model, "")
        self.tracker = MemoryTracker(self.ledger, modules, "output", HostValues(), wrappers=(NF4Tensor,))
        self.batches = 0

    def run(self) -> None:
        """Train, and record the last step."""
        self._track_model()
        with (
            no_garbage_collection(),
            gradients_labeled(self.tracker, self.trainable),
            self._marked(),
            self.tracker.tracking(),
        ):
            self.recipe.train()

    def static(self) -> dict[str, int]:
        """Return bytes of the tensors that stay through the step, by component, and of the gradients."""
        return {**self.ledger.static(), "gradients": self.gradients}

    def _track_model(self) -> None:
        for name, parameter in self.reference.named_parameters():
            if isinstance(parameter, NF4Tensor):
                self.tracker.track_external(name, parameter.quantized_data, "base_weights")
                for constant in CONSTANTS:
                    self.tracker.track_external(
                        f"{name}.{constant}", getattr(parameter, constant), "quantization_constants"
                    )
            else:
                component: ComponentName = "base_weights" if name in self.reference.base else "adapter_weights"
                self.tracker.track_external(name, parameter, component)
        for name, buffer in self.reference.named_buffers():
            self.tracker.track_external(name, buffer, "base_weights")
        self.tracker.track_external("ignore_labels_cache", self.recipe.ignore_labels_cache, "activations")

    @contextmanager
    def _marked(self) -> Iterator[None]:
        """Mark the phases: a batch that moves to the device, the backward pass, and what scales the gradients."""
        with ExitStack() as stack:
            for path, before, after in (
                ("torchtune.utils.batch_to_device", self._begin_batch, None),
                ("torch.Tensor.backward", lambda: self.tracker.enter("backward"), self._after_backward),
                ("torchtune.training.scale_grads", None, self._begin_update),
            ):
                stack.enter_context(mock.patch(path, _with_hooks(resolve_name(path), before, after)))
            yield

    def _begin_batch(self) -> None:
        accumulated = self.training.gradient_accumulation_steps
        if self.batches == (STEPS - 1) * accumulated:
            self._adopt()
            self.tracker.restart()
        self.batches += 1
        self.tracker.enter("forward")

    def _after_backward(self) -> None:
        if self.training.optimizer_in_bwd:
            self._begin_update()

    def _begin_update(self) -> None:
        self.gradients = self.tracker.live_bytes("gradients")
        self.tracker.enter("optimizer_step")

    def _adopt(self) -> None:
        """Name the optimizer states, which the step before created."""
        names = {id(parameter): name for name, parameter in self.trainable.items()}
        for optimizer in self._optimizers():
            make_steady(optimizer)
            for parameter, name, tensor in states(optimizer):
                self.tracker.adopt(f"{names.get(id(parameter), 'frozen')}.{name}", tensor, "optimizer_states")

    def _optimizers(self) -> Iterator[torch.optim.Optimizer]:
        if self.training.optimizer_in_bwd:
            yield from self.recipe._optim_ckpt_wrapper.optim_map.values()
        else:
            yield self.recipe._optimizer


def _reference(model: torch.nn.Module) -> ReferenceModel:
    base = {name: parameter for name, parameter in model.named_parameters() if ".lora_" not in name}
    return ReferenceModel(
        model=model,
        base=frozenset(base),
        base_parameters=sum(map(size_of, base.values())),
        head="output",
        root="",
    )


def _with_hooks(
    unchanged: Callable[..., Any], before: Callable[[], None] | None, after: Callable[[], None] | None
) -> Callable[..., Any]:
    def changed(*args: Any, **kwargs: Any) -> Any:
        if before is not None:
            before()
        out = unchanged(*args, **kwargs)
        del args, kwargs  # the caller keeps none of them either
        if after is not None:
            after()
        return out

    return changed
