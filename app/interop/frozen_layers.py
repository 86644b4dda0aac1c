"""LLaMA-Factory's finetuning_type freeze: the keys that choose layers, and the names of the parameters that they train.

Source: LLaMA-Factory, hparams/finetuning_args.py, FreezeArguments; model/adapter.py, _setup_freeze_tuning.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from calculator.methods.full.unfrozen import trained_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from calculator.architecture.model import Model
    from calculator.methods import Full

#: The number of layers without `freeze_trainable_layers`: the last two.
TRAINABLE_LAYERS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenLayers:
    """The choice of layers and modules.

    Attributes:
        layers: The number of trained layers: the last ones, or the first ones if it is negative.
        modules: The first parts of the names of modules in a layer that are trained; `all` for every module.
        extra: Parts of the names of trained modules outside the layers.
        spread: Whether `use_llama_pro` spreads the layers evenly over the model.
    """

    layers: int = TRAINABLE_LAYERS
    modules: Sequence[str] = ("all",)
    extra: Sequence[str] = ()
    spread: bool = False

    def patterns(self, model: Model) -> tuple[str, ...]:
        """Return `unfrozen_parameters` with the same trained parameters."""
        stack = model.decoder
        inside = (
            f"{stack.name}.{index}.{'' if module == 'all' else module}"
            for module in self.modules
            for index in self._indices(len(stack.layers))
        )
        outside = (name for name in _outside(model) if any(key in name for key in self.extra))
        return (*inside, *(f"^{name}$" for name in outside))

    def _indices(self, count: int) -> range:
        if self.spread:
            stride = count // self.layers
            return range(stride - 1, count, stride)
        return range(max(0, count - self.layers), count) if self.layers > 0 else range(min(-self.layers, count))

    def keys(self) -> dict[str, Any]:
        """Return the keys of LLaMA-Factory's file."""
        extra = {"freeze_extra_modules": ",".join(self.extra)} if self.extra else {}
        return {"freeze_trainable_layers": self.layers, "freeze_trainable_modules": ",".join(self.modules), **extra}


def chosen_layers(method: Full, model: Model) -> FrozenLayers | None:
    """Return the choice that trains the same parameters as a method; None if there is none."""
    names, prefix = trained_names(method.unfrozen_parameters or (), model), f"{model.decoder.name}."
    inside = [name.removeprefix(prefix).split(".") for name in names if name.startswith(prefix)]
    indices, count = {int(parts[0]) for parts in inside}, len(model.decoder.layers)
    extra = tuple(dict.fromkeys(name.split(".")[-2] for name in names if not name.startswith(prefix)))
    modules = tuple(dict.fromkeys(parts[1] for parts in inside))
    for layers in (len(indices), -len(indices)):
        for chosen in (("all",), modules):
            choice = FrozenLayers(layers=layers, modules=chosen, extra=extra)
            if 0 < len(indices) <= count and trained_names(choice.patterns(model), model) == names:
                return choice
    return None


def _outside(model: Model) -> Iterator[str]:
    """Yield the names of the parameters outside the layers, which have no number."""
    return (weight.name for weight in model.weights() if not re.search(r"\.\d+\.", weight.name))
