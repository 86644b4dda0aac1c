"""BAdam and LISA by the code of badam and axolotl, in the step that the figures are for.

axolotl's callback is loaded without the rest of axolotl, which needs CUDA packages.
"""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from io import StringIO
from pathlib import Path
from types import MethodType, ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

from calculator.common.errors import refusal
from calculator.estimation.estimate import model_of
from calculator.methods import Full
from calculator.methods.full import badam, lisa

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

    from calculator.estimation.request import Request


#: How to install a package whose requirements are not needed.
INSTALL = "run pip install --no-deps --target FOLDER {}, and trace with PYTHONPATH=FOLDER"


def is_badam(request: Request) -> bool:
    """Return whether the request's optimizer is BAdam's."""
    return isinstance(request.method, Full) and request.method.use_badam


def draws_of(request: Request, model: torch.nn.Module) -> Draws | None:
    """Return LISA's draws; None without LISA."""
    method = request.method
    return Draws(request, model) if isinstance(method, Full) and method.lisa_n_layers is not None else None


def block_optimizer(
    request: Request, model: torch.nn.Module, base: Callable[[list[Any]], torch.optim.Optimizer]
) -> torch.optim.Optimizer:
    """Return BlockOptimizer for a model, as LLaMA-Factory creates it. `base` creates the optimizer of some parameters.

    It trains the block that the figures are for, and the block changes at the end of the second step, which is traced.
    """
    method = request.method
    assert isinstance(method, Full)
    chosen = badam.chosen(method, model_of(request.model))
    assert chosen is not None
    with redirect_stdout(StringIO()):
        optimizer: torch.optim.Optimizer = _badam().BlockOptimizer(
            base_optimizer=base([parameter for parameter in model.parameters() if parameter.requires_grad]),
            named_parameters_list=list(model.named_parameters()),
            switch_block_every=1 if method.badam_switch_interval == 1 else 3,
            start_block=chosen[0],
            switch_mode="fixed",
            include_embedding=method.include_embedding,
            include_lm_head=method.include_lm_head,
            verbose=0,
        )
    optimizer.step = _silent(optimizer.step)
    return optimizer


def _badam() -> Any:
    if find_spec("badam") is None:
        raise refusal("method.use_badam", INSTALL.format("badam"), True)
    return import_module("badam")


def follow(request: Request, trainer: Any) -> None:
    """Make a Trainer follow the turns: with BAdam's clipping and callback as LLaMA-Factory sets them, or LISA's draws.

    Source: LLaMA-Factory, train/sft/trainer.py, CustomSeq2SeqTrainer.__init__.
    """
    if is_badam(request):
        trainer.accelerator.clip_grad_norm_ = MethodType(_badam().clip_grad_norm_old_version, trainer.accelerator)
        trainer.add_callback(_badam().BAdamCallback)
    draws = draws_of(request, trainer.model)
    if draws is not None:
        trainer.add_callback(draws.callback)


def _silent(step: Callable[..., None]) -> Callable[..., None]:
    def silent(*args: Any, **kwargs: Any) -> None:
        with redirect_stdout(StringIO()):
            step(*args, **kwargs)

    return silent


def copies(optimizer: Any) -> Iterator[tuple[torch.nn.Parameter, str, torch.Tensor]]:
    """Yield BlockOptimizer's float32 copies with their parameters, and the code books of 8-bit states."""
    for index, parameter in optimizer.param_idx2lp.items():
        yield parameter, badam.COPY, optimizer.param_idx2hp[index]
        for name, book in getattr(optimizer.base_optimizer, "name2qmap", {}).items():
            yield parameter, name, book


class Draws:
    """axolotl's LISACallback, whose draws reach every layer before the one that the figures are for."""

    def __init__(self, request: Request, model: torch.nn.Module) -> None:
        method, modeled = request.method, model_of(request.model)
        assert isinstance(method, Full)
        assert method.lisa_n_layers is not None
        count, layers = method.lisa_n_layers, len(modeled.decoder.layers)
        starts = [min(start, layers - count) for start in range(0, layers, count)]
        self.sets = [[*range(start, start + count)] for start in starts] + [[*lisa.chosen(count, modeled)]]
        args = SimpleNamespace(lisa_n_layers=count, lisa_step_interval=1, lisa_layers_attribute=modeled.decoder.name)
        self.callback: Any = _callback(SimpleNamespace(model=model, args=args))
        self.callback.on_step_begin = self.on_step_begin
        self._switch = self.callback.switch_active_layers
        self.step = 0

    @property
    def steps(self) -> int:
        """The steps before the one that the figures are for."""
        return len(self.sets) - 1

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Draw the layers of the next step."""
        drawn = self.sets[min(self.step, len(self.sets) - 1)]
        self.step += 1
        with mock.patch("numpy.random.choice", return_value=drawn):
            self._switch()


def _callback(trainer: Any) -> Any:
    package = find_spec("axolotl")
    if package is None or package.submodule_search_locations is None:
        raise refusal("method.lisa_n_layers", INSTALL.format("axolotl"), None)
    path = Path(next(iter(package.submodule_search_locations))) / "utils" / "callbacks" / "lisa.py"
    spec = spec_from_file_location("lisa", path)
    assert spec is not None
    assert spec.loader is not None
    module, logging = module_from_spec(spec), ModuleType("axolotl.utils.logging")
    logging.get_logger = lambda _: SimpleNamespace(info=lambda _: None)  # type: ignore[attr-defined]
    names = {"axolotl": ModuleType("axolotl"), "axolotl.utils": ModuleType("axolotl.utils"), logging.__name__: logging}
    with mock.patch.dict(sys.modules, names):
        spec.loader.exec_module(module)
    return module.lisa_callback_factory(trainer)
