"""Optimizers of packages that few runs need, which are imported when they are made, and Muon with AdamW."""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch.utils._python_dispatch import _disable_current_modes
from transformers import trainer_optimizer
from transformers.trainer_optimizer import OptimizerContext

from validation.tracing.emulations import autocast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from calculator.common.names import OptimizerName
    from calculator.inputs.training import Training


def _schedule_free(name: str, parameters: Any, **options: Any) -> torch.optim.Optimizer:
    """Return an optimizer of schedulefree in train mode."""
    optimizer: Any = getattr(import_module("schedulefree"), name)(parameters, **options)
    optimizer.train()
    return optimizer


def _torchao(name: str, parameters: Any, **options: Any) -> torch.optim.Optimizer:
    """Return an optimizer of torchao."""
    optimizer: torch.optim.Optimizer = getattr(import_module("torchao.optim"), name)(
        parameters, block_size=256, **options
    )
    return optimizer


def _stable_adamw(parameters: Any, **options: Any) -> torch.optim.Optimizer:
    """Return optimi's StableAdamW, which uses its Triton kernels on CUDA."""
    optimizer: torch.optim.Optimizer = _optimi().StableAdamW(parameters, **options)
    return optimizer


def _grokadamw(parameters: Any, **options: Any) -> torch.optim.Optimizer:
    """GrokAdamW."""
    optimizer: torch.optim.Optimizer = import_module("grokadamw").GrokAdamW(parameters, **options)
    return optimizer


def _optimi() -> Any:
    """Return optimi's module, imported as where Triton is missing: its kernels are no more than their names here."""
    name = "optimi.stableadamw"
    with mock.patch.dict(sys.modules, {"triton": None}) if name not in sys.modules else nullcontext():
        package = import_module(name)
        loaded = {key: module for key, module in sys.modules.items() if key.partition(".")[0] == "optimi"}
    sys.modules.update(loaded)
    return package


#: Constructors as the Hugging Face Trainer calls them. Source: transformers/trainer_optimizer.py.
PACKAGED: dict[OptimizerName, Callable[..., torch.optim.Optimizer]] = {
    "adamw_torch_8bit": partial(_torchao, "AdamW8bit"),
    "adamw_torch_4bit": partial(_torchao, "AdamW4bit"),
    "schedule_free_adamw": partial(_schedule_free, "AdamWScheduleFree"),
    "schedule_free_sgd": partial(_schedule_free, "SGDScheduleFree"),
    "schedule_free_radam": partial(_schedule_free, "RAdamScheduleFree"),
    "stable_adamw": _stable_adamw,
    "grokadamw": _grokadamw,
}


def projecting(training: Training, model: torch.nn.Module) -> torch.optim.Optimizer:
    """Return GaLore's or APOLLO's optimizer, by the Trainer's own code."""
    args = SimpleNamespace(
        optim=training.optimizer,
        optim_target_modules=_listed(training.optim_target_modules),
        parallel_mode=None,
        gradient_accumulation_steps=training.gradient_accumulation_steps,
    )
    options = trainer_optimizer._parse_optim_args(training.optim_args)
    optimizer_context = OptimizerContext(args, model, {"lr": 1e-4}, {"betas": (0.9, 0.999), "eps": 1e-8}, options)
    name = "_get_galore_optimizer" if "galore" in training.optimizer else "_get_apollo_optimizer"
    cls, arguments = getattr(trainer_optimizer, name)(optimizer_context)
    params = arguments.pop("params")
    optimizer: torch.optim.Optimizer = cls(arguments.pop("optimizer_dict", params), **arguments)
    return optimizer


def updating(training: Training, model: torch.nn.Module) -> torch.optim.Optimizer:
    """LOMO or AdaLOMO, by the Trainer's own code."""
    args = SimpleNamespace(optim=training.optimizer)
    cls, arguments = trainer_optimizer._get_lomo_optimizer(OptimizerContext(args, model, {"lr": 1e-4}, {}, {}))
    optimizer: torch.optim.Optimizer = cls(**arguments)
    return optimizer


def _listed(named: Any) -> Any:
    return list(named) if isinstance(named, tuple) else named


def _standard_normal(shape: Any, seed: int, device: Any = None, dtype: Any = torch.float32) -> torch.Tensor:
    """Return random numbers on the meta device, which has no generator."""
    return torch.randn(shape, device=device, dtype=dtype)


class MuonWithAdamW(torch.optim.Optimizer):
    """`torch.optim.Muon` over the matrices of hidden layers and `torch.optim.AdamW` over the rest."""

    def __init__(self, model: torch.nn.Module) -> None:
        head: Any = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
        outside = [module for module in model.modules() if isinstance(module, torch.nn.Embedding) or module is head]
        outer = {id(parameter) for module in outside for parameter in module.parameters()}
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        matrices = [parameter for parameter in trained if parameter.ndim == 2 and id(parameter) not in outer]
        chosen = {id(matrix) for matrix in matrices}
        others = [parameter for parameter in trained if id(parameter) not in chosen]
        self.optimizers: list[torch.optim.Optimizer] = []
        if matrices:
            self.optimizers.append(torch.optim.Muon(matrices, lr=1e-4))
        if others:
            self.optimizers.append(torch.optim.AdamW(others, lr=1e-4, foreach=True))
        super().__init__(trained, {})

    def step(self, closure: None = None) -> None:
        """Update the matrices, then the rest."""
        for inner in self.optimizers:
            inner.step()
            self.state.update(inner.state)


def _torchao_states(self: Any, closure: None = None) -> None:
    for group in self.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None and not self.state[parameter]:
                states = {
                    "exp_avg": self._new_buffer(parameter, True),
                    "exp_avg_sq": self._new_buffer(parameter, False),
                }
                self.state[parameter].update(states)


def _optimi_states(self: Any, closure: None = None) -> None:
    for group in self.param_groups:
        self._init_group(group, *([] for _ in range(7)))


def _larger(_: float, rms: torch.Tensor) -> torch.Tensor:
    """Return the root mean square of a parameter, with a value for AdaLomo's `alpha`."""
    setattr(rms, "known_value", 1.0)  # noqa: B010  mypy knows no such attribute
    return rms


def _norm_alone(_: str, grad: torch.Tensor, parameter: torch.Tensor, *__: Any, **___: Any) -> None:
    """Allocate the tensors of a norm in bitsandbytes' update with 32-bit states; it has no value on the meta device."""
    torch.norm(parameter.data.float())


_to = torch.Tensor.to


def _copied(tensor: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
    """Return a copy to the host of a tensor on the meta device, which has no values."""
    if args == ("cpu",) and tensor.device.type == "meta":
        with _disable_current_modes():
            return torch.empty(tensor.shape, dtype=tensor.dtype)
    return _to(tensor, *args, **options)


@contextmanager
def states_alone(name: OptimizerName) -> Iterator[None]:
    """Let the steps of an optimizer whose kernels need CUDA create its states alone.

    torchao compiles its update, and optimi's is of Triton kernels. What APOLLO draws and compares needs values.
    """
    patches: list[Any] = []
    if name in ("adamw_torch_8bit", "adamw_torch_4bit"):
        patches.append(mock.patch.object(import_module("torchao.optim.adam")._AdamBase, "step", _torchao_states))
    if name == "stable_adamw":
        optimi = _optimi()
        patches.append(mock.patch.object(optimi, "_default_to_triton", return_value=True))
        patches.append(mock.patch.object(optimi.StableAdamW, "step", _optimi_states))
    if name == "adalomo":
        patches.append(mock.patch.object(torch.Tensor, "cuda", lambda tensor: tensor.to("meta")))
        patches.append(mock.patch("lomo_optim.adalomo.max", _larger, create=True))
    if name == "grokadamw":
        patches.append(mock.patch.object(torch.Tensor, "to", _copied))
    if name == "galore_adamw_8bit_layerwise":
        patches.append(mock.patch.object(torch.cuda, "synchronize", return_value=None))
        patches.append(mock.patch("bitsandbytes.functional.optimizer_update_32bit", _norm_alone))
    if name.startswith("apollo"):
        patches.append(mock.patch("apollo_torch.random_projector.stable_randn", _standard_normal))
        patches.append(mock.patch("apollo_torch.apollo.max", lambda growth, _: growth, create=True))
    if name == "lorafa":
        patches.append(mock.patch("peft.optimizers.lorafa.infer_device", return_value="cuda"))
        patches.append(mock.patch("peft.optimizers.lorafa.is_bf16_available", return_value=True))
        patches.append(mock.patch("peft.optimizers.lorafa.autocast", autocast.autocast))
    with ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        yield
