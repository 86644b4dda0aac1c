"""The optimizers of a request, as the Hugging Face Trainer creates them, on the meta device."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest import mock

import bitsandbytes as bnb
import torch
from peft.optimizers import create_lorafa_optimizer, create_loraplus_optimizer
from peft.optimizers.lorafa import LoraFAOptimizer
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import _disable_current_modes
from transformers.optimization import Adafactor

from calculator.resident.optimizers import OPTIMIZERS as MODELED
from validation.reference.active_layers import copies
from validation.reference.packaged_optimizers import PACKAGED, MuonWithAdamW, projecting, states_alone, updating

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from calculator.common.names import OptimizerName
    from calculator.inputs.training import Training

#: Constructors of the optimizers, as the Hugging Face Trainer calls them. Source: transformers/trainer_optimizer.py.
OPTIMIZERS: dict[OptimizerName, Callable[..., torch.optim.Optimizer]] = {
    "adamw_torch": partial(torch.optim.AdamW, foreach=True),
    "adamw_torch_fused": partial(torch.optim.AdamW, fused=True),
    "adamw_8bit": partial(bnb.optim.AdamW, optim_bits=8),
    "adamw_bnb_8bit": partial(bnb.optim.AdamW, optim_bits=8),
    "paged_adamw_8bit": partial(bnb.optim.AdamW, optim_bits=8, is_paged=True),
    "paged_adamw_32bit": partial(bnb.optim.AdamW, optim_bits=32, is_paged=True),
    "lion_8bit": partial(bnb.optim.Lion, optim_bits=8),
    "paged_lion_8bit": partial(bnb.optim.Lion, optim_bits=8, is_paged=True),
    "lion_32bit": partial(bnb.optim.Lion, optim_bits=32),
    "paged_lion_32bit": partial(bnb.optim.Lion, optim_bits=32, is_paged=True),
    "sgd": partial(torch.optim.SGD, foreach=True),
    "adafactor": partial(Adafactor, scale_parameter=False, relative_step=False),
    "adagrad": partial(torch.optim.Adagrad, foreach=True),
    "rmsprop": partial(torch.optim.RMSprop, foreach=True),
    # PyTorch has it from 2.9 on.
    **({"muon": torch.optim.Muon} if hasattr(torch.optim, "Muon") else {}),
    **PACKAGED,
}


def optimizer_for(
    name: OptimizerName, parameters: list[torch.nn.Parameter] | list[dict[str, list[torch.nn.Parameter]]]
) -> torch.optim.Optimizer:
    """Return the optimizer of `TrainingArguments(optim=name)` over one parameter group, or over several."""
    return OPTIMIZERS[name](parameters, lr=1e-4)


def optimizer_of(training: Training, model: torch.nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer of a reference step, over the parameters of a model that are trained."""
    if training.optimizer_in_bwd:
        return PerParameterOptimizer(training.optimizer, model)
    if training.optimizer in ("lomo", "adalomo"):
        return updating(training, model)
    if training.loraplus_lr_ratio is not None:
        return loraplus_optimizer(training.optimizer, model, training.loraplus_lr_ratio)
    if training.optimizer == "lorafa":
        return lorafa_optimizer(model)
    if training.optimizer == "muon":
        return MuonWithAdamW(model)
    if MODELED[training.optimizer].projects:
        return projecting(training, model)
    return optimizer_for(training.optimizer, [parameter for parameter in model.parameters() if parameter.requires_grad])


class PerParameterOptimizer(torch.optim.Optimizer):
    """An optimizer for each parameter, which a hook steps before it frees the gradient."""

    def __init__(self, name: OptimizerName, model: torch.nn.Module) -> None:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer_dict = {parameter: optimizer_for(name, [parameter]) for parameter in trained}
        for parameter in trained:
            parameter.register_post_accumulate_grad_hook(self._release)
        super().__init__(trained, {})

    def _release(self, parameter: torch.Tensor) -> None:
        optimizer: torch.optim.Optimizer = self.optimizer_dict[parameter]
        optimizer.step()
        optimizer.zero_grad()

    def step(self, closure: None = None) -> None:
        """Do nothing: the backward pass has updated every parameter."""


def backward(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    """Run the backward pass, by the optimizer if it does so itself."""
    if hasattr(optimizer, "fused_backward"):
        optimizer.fused_backward(loss, 1e-4)
    else:
        loss.backward()


def step_of(optimizer: torch.optim.Optimizer) -> None:
    """Step an optimizer, unless the backward pass has; accelerate calls no step of LOMO's (accelerate/optimizer.py)."""
    if not hasattr(optimizer, "fused_backward"):
        optimizer.step()


def _inner_optimizers(optimizer: torch.optim.Optimizer) -> Iterator[torch.optim.Optimizer]:
    """Yield the optimizers of all parameters, or the only one. A trainer's may be in accelerate's."""
    optimizer = getattr(optimizer, "optimizer", optimizer)
    yield from getattr(optimizer, "optimizer_dict", {None: optimizer}).values()


def make_steady(optimizer: torch.optim.Optimizer) -> None:
    """Advance the counters of an optimizer whose later steps differ from its second."""
    for inner in _inner_optimizers(optimizer):
        _make_steady(inner)


def _make_steady(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        if "silent_sgd_phase" in group:
            group["k"] = 10  # RAdam normalizes gradients from its fifth step on
    for state in optimizer.state.values():
        if "projector" in state:
            state["step"] = 0  # the projection is made again


def loraplus_optimizer(name: OptimizerName, model: torch.nn.Module, ratio: float) -> torch.optim.Optimizer:
    """Return the optimizer with the parameter groups of LoRA+."""
    optimizer_class: Any = OPTIMIZERS[name]
    return create_loraplus_optimizer(
        model, optimizer_class.func, lr=1e-4, loraplus_lr_ratio=ratio, **optimizer_class.keywords
    )


def lorafa_optimizer(model: Any) -> torch.optim.Optimizer:
    """Return PEFT's optimizer for LoRA-FA, which freezes A."""
    config = model.peft_config["default"]
    return create_lorafa_optimizer(model, r=config.r, lora_alpha=config.lora_alpha, lr=1e-4)


def states(optimizer: torch.optim.Optimizer) -> Iterator[tuple[torch.nn.Parameter, str, torch.Tensor]]:
    """Yield every state tensor on the device, with its parameter and name; tensors in managed memory are left out."""
    for inner in _inner_optimizers(optimizer):
        yield from _states(inner)
    optimizer = getattr(optimizer, "optimizer", optimizer)
    named = dict(optimizer.model.named_parameters()) if hasattr(optimizer, "exp_avg_sq_row") else {}
    for kind in ("exp_avg_sq", "exp_avg_sq_row", "exp_avg_sq_col") if named else ():  # of AdaLomo
        yield from ((named[name], kind, tensor) for name, tensor in getattr(optimizer, kind).items())


def _states(optimizer: torch.optim.Optimizer) -> Iterator[tuple[torch.nn.Parameter, str, torch.Tensor]]:
    if isinstance(optimizer, LoraFAOptimizer):
        yield from _lorafa_states(optimizer)
        return
    if hasattr(optimizer, "param_idx2hp"):
        yield from copies(optimizer)
        optimizer = optimizer.base_optimizer
    for parameter, state in optimizer.state.items():
        for name, whole in state.items():
            value = whole.to_local() if isinstance(whole, DTensor) else whole
            if isinstance(value, torch.Tensor) and not getattr(value, "is_paged", False):
                for part in getattr(value, "tensor_attrs", ()):  # a state in blocks of torchao
                    yield parameter, f"{name}.{part}", getattr(value, part)
                if not hasattr(value, "tensor_attrs"):
                    yield parameter, name, value
            elif name == "projector":
                yield parameter, name, value.ortho_matrix


def _lorafa_states(optimizer: torch.optim.Optimizer) -> Iterator[tuple[torch.nn.Parameter, str, torch.Tensor]]:
    """Yield LoRA-FA's states. It stores them by parameter name, and those of B by the part that A and B share."""
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            owner = f"{name.partition('lora_B')[0]}lora" if "lora_B" in name else name
            state: Any = optimizer.state
            for kind, value in state.get(owner, {}).items():
                if isinstance(value, torch.Tensor):
                    yield parameter, kind.removesuffix("_B"), value


def _managed(*shape: int, dtype: torch.dtype = torch.float32, device: torch.device) -> torch.Tensor:
    """Return a meta tensor in place of one in managed memory (bitsandbytes.functional.get_paged).

    No tracker sees it.
    """
    with _disable_current_modes():
        buffer = torch.empty(shape, dtype=dtype, device=device)
    buffer.is_paged = True
    return buffer


def _no_op(*_: Any, **__: Any) -> None:
    """Replace a call that needs a real device's memory."""


@contextmanager
def optimizers_on_meta(name: OptimizerName = "adamw_torch") -> Iterator[None]:
    """Make the optimizers treat the meta device as CUDA. `name` is that of the run's optimizer."""
    replacements = {
        "torch.optim.adam._device_dtype_check_for_fused": _no_op,
        "torch.utils._foreach_utils._get_foreach_kernels_supported_devices": lambda: ["cuda", "meta"],
        "torch.optim.optimizer._get_foreach_kernels_supported_devices": lambda: ["cuda", "meta"],
        "bitsandbytes.functional.get_paged": _managed,
        "bitsandbytes.functional.fill": _no_op,
        "bitsandbytes.functional.prefetch_tensor": _no_op,
        "bitsandbytes.functional.is_on_gpu": _no_op,
        "bitsandbytes.optim.optimizer.sync_gpu": _no_op,
        # It keeps a trainer's overrides by the ids of parameters, which those of a later model can have too.
        "bitsandbytes.optim.optimizer.GlobalOptimManager._instance": None,
    }
    with ExitStack() as stack:
        for path, replacement in replacements.items():
            stack.enter_context(mock.patch(path, replacement))
        stack.enter_context(states_alone(name))
        yield
