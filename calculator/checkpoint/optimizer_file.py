"""The state dict of an optimizer, which the Trainer saves as `optimizer.pt`.

Sources: torch/optim (the keys of each optimizer's state and of its parameter groups); bitsandbytes 0.50,
optim/optimizer.py (state_dict, init_state); transformers 5.24, trainer_optimizer.py and optimization.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calculator.architecture.dimension import elements
from calculator.checkpoint.torch_file import TorchTensor
from calculator.resident.optimizer import BLOCKSIZE_8BIT, SMALLEST_8BIT, SMALLEST_PAGED

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Sequence

    from calculator.checkpoint.parameters import Named
    from calculator.resident.optimizer import Optimizer
    from calculator.resident.tensor import ResidentTensor

CUDA = "cuda:0"

#: A float of a parameter group. Its value does not matter, because every float takes the same space.
_FLOAT = 0.5

_TORCH_ADAM = {
    "betas": (_FLOAT, _FLOAT),
    "eps": _FLOAT,
    "amsgrad": False,
    "maximize": False,
    "foreach": None,
    "capturable": False,
    "differentiable": False,
    "fused": None,
    "decoupled_weight_decay": True,
}
_BNB_ADAM = {"betas": (_FLOAT, _FLOAT), "eps": _FLOAT, "alpha": _FLOAT, "t_alpha": None, "t_beta3": None}
_BNB_LION = {"betas": (_FLOAT, _FLOAT), "eps": _FLOAT}

#: The keys of the code books and block constants of 8-bit states. A pickle writes each string object once.
_QMAPS = ("qmap1", "qmap2")
_ABSMAXES = ("absmax1", "absmax2")

#: The options of each optimizer's parameter groups that follow `weight_decay` and `lr`.
_OPTIONS: dict[str, dict[str, Any]] = {
    "adamw_torch": _TORCH_ADAM,
    "adamw_torch_fused": {**_TORCH_ADAM, "fused": True},
    "sgd": {
        "momentum": 0,
        "dampening": 0,
        "nesterov": False,
        "maximize": False,
        "foreach": None,
        "differentiable": False,
        "fused": None,
    },
    "adafactor": {
        "eps": (_FLOAT, _FLOAT),
        "clip_threshold": _FLOAT,
        "decay_rate": _FLOAT,
        "beta1": None,
        "scale_parameter": False,
        "relative_step": False,
        "warmup_init": False,
    },
    "adagrad": {
        "lr_decay": 0,
        "eps": _FLOAT,
        "initial_accumulator_value": 0,
        "foreach": None,
        "maximize": False,
        "differentiable": False,
        "fused": None,
    },
    "rmsprop": {
        "momentum": 0,
        "alpha": _FLOAT,
        "eps": _FLOAT,
        "centered": False,
        "capturable": False,
        "foreach": None,
        "maximize": False,
        "differentiable": False,
    },
}


def state_dict(
    groups: Sequence[Sequence[Named]], optimizer: Optimizer, in_32_bits: Container[str] = (), device: str = CUDA
) -> dict[str, Any]:
    """Return the optimizer's state dict after a step. Parameters are numbered group by group.

    Args:
        groups: The trained parameters of each group.
        optimizer: The optimizer.
        in_32_bits: The names of kinds that have no 8-bit states.
        device: Where the parameters are.
    """
    state: dict[int, dict[str, Any]] = {}
    saved: list[dict[str, Any]] = []
    shared = {name: TorchTensor((256,), "float32", device) for name in _QMAPS}
    count = 0
    for group in groups:
        saved.append({**_options(optimizer), "params": [*range(count, count + len(group))]})
        for number, parameter in enumerate(group, count):
            parameter_optimizer = optimizer.in_32_bits if parameter.kind.name in in_32_bits else optimizer
            states = dict(_states(parameter, parameter_optimizer, shared, device))
            if states:
                state[number] = states
        count += len(group)
    return {"state": state, "param_groups": saved}


def _options(optimizer: Optimizer) -> dict[str, Any]:
    """Return the options of a group.

    Tuples are copied, because accelerate copies them and a pickle then writes each copy.
    """
    options = _OPTIONS.get(optimizer.name) or (_BNB_LION if "lion" in optimizer.name else _BNB_ADAM)
    options = {
        name: tuple(item for item in value) if isinstance(value, tuple) else value for name, value in options.items()
    }
    return {"weight_decay": _FLOAT, "lr": _FLOAT, **options, "initial_lr": _FLOAT}


def _states(
    parameter: Named, optimizer: Optimizer, shared: dict[str, TorchTensor], device: str
) -> Iterator[tuple[str, Any]]:
    """Yield the states of one parameter."""
    kind = parameter.kind
    if not kind.gets_gradient and not (kind.trained and optimizer.early):
        return
    if optimizer.name not in _OPTIONS:
        yield "step", 1
        yield "__bnb_optimizer_quant_state__", dict(_bitsandbytes_states(kind.shape, optimizer, shared, device))
        return
    if optimizer.storage == "factored":
        states = {
            name: TorchTensor(shape, dtype, device) for name, shape, dtype in optimizer.states(kind.shape, kind.dtype)
        }
        yield "step", 1
        yield from (
            (name, states[name]) for name in ("exp_avg_sq_row", "exp_avg_sq_col", "exp_avg_sq", "RMS") if name in states
        )
        return
    if optimizer.names:
        yield "step", TorchTensor((), "float32", device if optimizer.step_on_device else "cpu")
    yield from ((name, TorchTensor(kind.shape, kind.dtype, device)) for name in optimizer.names)


def _bitsandbytes_states(
    shape: tuple[int, ...], optimizer: Optimizer, shared: dict[str, TorchTensor], device: str
) -> Iterator[tuple[str, TorchTensor]]:
    """Yield the states of one parameter: in 8 bits with code books, or in 32 bits. Paged states are on the CPU."""
    blocks = optimizer.storage == "8bit" and elements(shape) >= SMALLEST_8BIT
    state_device = "cpu" if optimizer.paged and elements(shape) >= SMALLEST_PAGED else device
    for name, qmap in zip(optimizer.names, _QMAPS, strict=False):
        yield name, TorchTensor(shape, "uint8" if blocks else "float32", state_device)
        if blocks:
            yield qmap, shared[qmap]
    for absmax, _ in zip(_ABSMAXES, optimizer.names, strict=False) if blocks else ():
        yield absmax, TorchTensor((-(-elements(shape) // BLOCKSIZE_8BIT),), "float32", device)


def grouped(parameters: Sequence[Named], groups: Iterable[Iterable[ResidentTensor]]) -> list[list[Named]]:
    """Return the trained parameters of each group, given the kinds of each group."""
    names = [{kind.name for kind in group} for group in groups]
    return [[parameter for parameter in parameters if parameter.kind.name in group] for group in names]
