"""DeepSpeed's ZeRO as accelerate's `_prepare_deepspeed` and transformers' `auto` values set it up."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any
from unittest import mock

import deepspeed
import torch
from deepspeed.runtime.zero import partitioned_param_coordinator

from validation.reference.optimizers import states
from validation.sharding.accelerator import cuda_alone, forget_groups, posing_as_cuda
from validation.sharding.engine import Engine
from validation.sharding.survivors import Survivors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from transformers import PretrainedConfig

    from calculator.common.names import ComponentName
    from calculator.inputs.sharding import Sharding
    from calculator.inputs.training import Training
    from validation.sharding.engine import Record
    from validation.tracing.memory_tracker import MemoryTracker


def config_of(training: Training, sharding: Sharding, hidden_size: int) -> dict[str, Any]:
    """Return the DeepSpeed config of a run, with transformers' values for `auto`.

    References:
        transformers/integrations/deepspeed.py, `trainer_config_process`.
    """
    given = sharding.zero_optimization
    zero = {key: value for key, value in asdict(given).items() if value is not None}
    zero = {key: given.resolved(key, hidden_size) if value == "auto" else value for key, value in zero.items()}
    for name in ("offload_optimizer", "offload_param"):
        if name in zero:
            zero[name] = {**zero[name], "pin_memory": False}  # pinning needs CUDA
    micro_batches = training.gradient_accumulation_steps
    return {
        "train_micro_batch_size_per_gpu": training.micro_batch_size,
        "gradient_accumulation_steps": micro_batches,
        "train_batch_size": training.micro_batch_size * micro_batches * sharding.count,
        "gradient_clipping": training.max_grad_norm or 0.0,
        "bf16": {"enabled": training.autocast == "bfloat16"},
        "fp16": {"enabled": training.autocast == "float16"},
        "zero_optimization": {**zero, "stage": sharding.stage},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def auto_hidden_size(config: PretrainedConfig) -> int:
    """Return the hidden size from which transformers computes sizes that are `auto`."""
    return int(getattr(config, "hidden_size", None) or config.get_text_config().hidden_size)


#: DeepSpeed's methods that allocate in the step, and the component of what they allocate.
ALLOCATING: dict[str, ComponentName] = {
    "setup_buckets": "workspace",
    "process_gradients": "gradients",
    "reduce_ready_partitions_and_remove_grads": "gradients",
    "independent_gradient_partition_epilogue": "gradients",
    "_constant_buffered_norm2": "workspace",
    "set_norm_for_param_grad_in_gpu": "workspace",
    "fetch_sub_module": "base_weights",
}


#: The attributes of DeepSpeed's optimizers that are tensors or lists of them, and their components. `base_weights`
#: stands for the trained weights, which are adapters where a method adds any.
KEPT: dict[str, ComponentName] = {
    "bit16_groups_flat": "base_weights",
    "single_partition_of_fp32_groups": "optimizer_states",
    "lp_param_buffer": "base_weights",
    "fp32_partitioned_groups_flat": "optimizer_states",
    "grad_partitions_flat_buffer": "gradients",
}


class InOrder(set[Any]):
    """A set of parameters in the model's order.

    DeepSpeed waits for the parameters of a module in the order of a set, which is that of their addresses. Where two
    buffers have them, it decides whether both are alive at once, and differs from run to run.
    """

    def __iter__(self) -> Iterator[Any]:
        """Iterate in the order in which they were partitioned."""
        return iter(sorted(super().__iter__(), key=lambda parameter: getattr(parameter, "ds_id", 0)))


class ZeROEngine(Engine):
    """A model whose optimizer states, gradients or weights DeepSpeed partitions.

    Under a trainer, the backward pass ends with DeepSpeed's step. Stage 3 learns the modules' order in its first two
    steps, so the third is the first that is like all later ones.
    """

    steps_in_backward = True

    @property
    def warm_up_steps(self) -> int:
        """Steps before the traced one."""
        return 2 if self._sharding.stage == 3 else 1

    @cached_property
    def _survivors(self) -> Survivors:
        return Survivors(self._device)

    def build(self) -> None:
        """Partition the model and its optimizer."""
        model = self.reference.model
        hidden_size = auto_hidden_size(model.config)
        self.create_optimizer()
        if not any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
            forget_groups()
        with self.running(), self._survivors:
            self.model, self._zero, *_ = deepspeed.initialize(
                model=model, optimizer=self.optimizer, config=config_of(self.training, self._sharding, hidden_size)
            )

    def adopt(self, trainer: Any) -> None:
        """Take DeepSpeed's engine and the optimizer inside it."""
        self.model = trainer.model_wrapped
        self._zero = self.model.optimizer
        self.optimizer = self._zero.optimizer

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let DeepSpeed run on the device as on CUDA, or on CUDA itself."""
        in_order = mock.patch.object(partitioned_param_coordinator, "set", InOrder, create=True)
        with cuda_alone() if self._device == "cuda" else self._posing(), in_order:
            yield

    def _posing(self) -> AbstractContextManager[None]:
        return posing_as_cuda(self._device, self._streams, "fake" if self._device == "meta" else "gloo")

    @contextmanager
    def warming_up(self) -> Iterator[None]:
        """Remember what the first steps allocate."""
        with self._survivors:
            yield

    def autocast_dtype(self) -> None:
        """None: DeepSpeed casts the weights instead."""

    @contextmanager
    def tracing(self, tracker: MemoryTracker) -> Iterator[None]:
        """Record what DeepSpeed allocates under the method that does, and gradients in storages of their own."""
        with ExitStack() as stack:
            parameters = getattr(self._zero, "parameter_offload", None)
            for owner in (self._zero, getattr(parameters, "param_coordinator", None)):
                for name, component in ALLOCATING.items():
                    if hasattr(owner, name):
                        recorded = _recorded(getattr(owner, name), name, component, tracker)
                        stack.enter_context(mock.patch.object(owner, name, recorded))
            for name, parameter in self.trainable().items():
                hook = parameter.register_post_accumulate_grad_hook(_labeller(tracker, name))
                stack.callback(hook.remove)
            yield

    def labeled(self) -> dict[str, torch.nn.Parameter]:
        """None, because most gradients are views of a bucket."""
        return {}

    @contextmanager
    def micro_batch(self, *, last: bool) -> Iterator[None]:
        """Reduce at the boundary, as accelerate sets it."""
        self.model.set_gradient_accumulation_boundary(is_boundary=last)
        yield

    def backward(self, loss: torch.Tensor) -> None:
        """Run DeepSpeed's backward pass."""
        self.model.backward(loss)

    def update(self) -> None:
        """Clip, update and drop the gradients, all of which `step` does."""
        self.model.step()

    def close(self) -> None:
        """Drop the tensors of DeepSpeed's optimizer and of partitions, to which hooks of the graph still refer."""
        parameters = [*self.reference.model.parameters()]
        self.model.destroy()
        for owner in (self._zero, self.optimizer, *parameters):
            vars(owner).clear()

    def zero_grad(self) -> None:
        """Do nothing: `step` has dropped the gradients."""

    def states(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the states of this rank's partitions."""
        for index, (_, state, tensor) in enumerate(states(self.optimizer)):
            yield f"partition {index}.{state}", tensor

    def track(self, record: Record) -> None:
        """Track weights, masters and buffers under names of their own, and the parts of every parameter."""
        trained = (name for name, weight in self.reference.named_parameters() if weight.requires_grad)
        adapts = any(self.component(name) == "adapter_weights" for name in trained)
        for attribute, source in KEPT.items():
            component: ComponentName = "adapter_weights" if adapts and source == "base_weights" else source
            value = getattr(self._zero, attribute, None)
            for index, tensor in enumerate(value if isinstance(value, list) else [value]):
                if isinstance(tensor, torch.Tensor):
                    record(f"{attribute} {index}", tensor, component)
        for dtype, bucket in self._zero.ipg_buckets.items():
            if isinstance(bucket.buffer, torch.Tensor):
                record(f"reduce bucket {dtype}".replace("torch.", ""), bucket.buffer, "workspace")
        for name, parameter in self.reference.named_parameters():
            if hasattr(parameter, "ds_tensor"):
                record(f"{name}: partition", parameter.ds_tensor, self.component(name))

    def on_host(self) -> Iterator[torch.Tensor]:
        """Yield tensors that only have shapes, which DeepSpeed itself puts on meta, and paged states."""
        yield from chain.from_iterable(getattr(self._zero, "round_robin_bit16_meta", []))
        tensors = (tensor for state in self.optimizer.state.values() for tensor in state.values())
        yield from (tensor for tensor in tensors if getattr(tensor, "is_paged", False))

    def track_rest(self, record: Record) -> None:
        """Track what DeepSpeed keeps."""
        on_host = {tensor.untyped_storage()._cdata for tensor in self.on_host()}
        for op, tensor in self._survivors.tensors():
            if tensor.untyped_storage()._cdata not in on_host:
                record(f"deepspeed.{op}", tensor, "workspace")


def _recorded(
    method: Callable[..., Any], name: str, component: ComponentName, tracker: MemoryTracker
) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        with tracker.owner("", name, component):
            return method(*args, **kwargs)

    return run


def _labeller(tracker: MemoryTracker, name: str) -> Callable[[torch.Tensor], None]:
    def label(parameter: torch.Tensor) -> None:
        grad = parameter.grad
        if grad is not None and grad.untyped_storage().nbytes() == grad.nbytes:
            tracker.label(f"{name}.grad", grad, "gradients")

    return label
