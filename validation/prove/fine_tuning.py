"""A network pretrained on some digits and fine-tuned on others: fully, with LoRA, and in random subspaces."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import peft
import torch

from validation.prove import digits
from validation.prove.subspace import Subspace, intrinsic_dimension

if TYPE_CHECKING:
    from torch import Tensor, nn

    from validation.prove.digits import Task
    from validation.prove.experiment import Setting

Change = Literal["new digits", "turned digits"]
Start = Literal["pretrained", "random"]

WIDTH = 64
#: Adam's learning rates, those with the best overall accuracy of several tried on one seed, a factor of 3 apart.
LR_FULL, LR_LORA, LR_SUBSPACE = 3e-3, 1e-2, 1e-1

#: The lesson's ranks start at 4; two lower ones are added.
RANKS = (1, 2, 4, 8, 16)
DIMENSIONS = (8, 16, 32, 64, 96, 128, 192, 256)
STARTS: tuple[Start, ...] = ("pretrained", "random")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The seeds, ranks and dimensions to try, and the steps of each training."""

    seeds: int = 5
    steps: int = 400
    ranks: tuple[int, ...] = RANKS
    dimensions: tuple[int, ...] = DIMENSIONS

    @property
    def trainings(self) -> int:
        """The number of trainings for one change and one seed."""
        return 2 + len(self.ranks) + len(STARTS) * len(self.dimensions)


QUICK = Plan(seeds=1, steps=80, ranks=(1, 8), dimensions=(16, 128))


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningResult:
    """The results of one change and one seed: accuracies on test images, and their gaps to training images."""

    parameters: int
    before: float
    full: float
    full_gap: float
    updates: tuple[Tensor, ...]
    lora: dict[int, float]
    lora_gap: dict[int, float]
    subspace: dict[Start, dict[int, float]]

    @property
    def hidden(self) -> Tensor:
        """The update of the weight between the hidden layers."""
        return self.updates[1]

    def lost(self, r: int) -> float:
        """Return the accuracy of full fine-tuning minus LoRA's."""
        return self.full - self.lora[r]

    def dimension(self, start: Start) -> float:
        """d90 from a kind of initial weights."""
        return intrinsic_dimension(self.subspace[start], self.full)


def fine_tuned(change: Change, seed: int, plan: Plan, setting: Setting) -> TuningResult:
    """Pretrain a network, then fine-tune it in every way."""
    torch.manual_seed(seed)
    before, after = _split_task(change, digits.task(seed, setting.device))
    pretrained = digits.network(WIDTH, setting.device)
    random = digits.network(WIDTH, setting.device)
    digits.train(pretrained, pretrained.parameters(), before, steps=plan.steps, lr=LR_FULL)
    setting.step()
    full = deepcopy(pretrained)
    digits.train(full, full.parameters(), after, steps=plan.steps, lr=LR_FULL)
    setting.step()
    layers = zip(digits.linear_layers(full), digits.linear_layers(pretrained), strict=True)
    adapted = {r: _adapted(pretrained, r, after, plan, setting) for r in plan.ranks}
    starts: dict[Start, nn.Module] = {"pretrained": pretrained, "random": random}
    return TuningResult(
        parameters=sum(parameter.numel() for parameter in pretrained.parameters()),
        before=digits.accuracy(pretrained, after),
        full=digits.accuracy(full, after),
        full_gap=digits.gap(full, after),
        updates=tuple((new.weight - old.weight).detach() for new, old in layers),
        lora={r: digits.accuracy(model, after) for r, model in adapted.items()},
        lora_gap={r: digits.gap(model, after) for r, model in adapted.items()},
        subspace={
            start: {d: _train_in_subspace(network, d, after, plan, setting) for d in plan.dimensions}
            for start, network in starts.items()
        },
    )


def _split_task(change: Change, whole: Task) -> tuple[Task, Task]:
    """Return the tasks of pretraining and of fine-tuning."""
    if change == "new digits":
        return whole.only(range(5)), whole.only(range(5, 10))
    return whole, whole.rotated()


def _adapted(pretrained: nn.Sequential, r: int, after: Task, plan: Plan, setting: Setting) -> nn.Module:
    """Train LoRA on every layer; alpha = r, so the update is BA itself, and biases are not trained."""
    names = [name for name, module in pretrained.named_children() if module in digits.linear_layers(pretrained)]
    config = peft.LoraConfig(r=r, lora_alpha=r, target_modules=names)
    model: nn.Module = peft.get_peft_model(deepcopy(pretrained), config)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    digits.train(model, trainable, after, steps=plan.steps, lr=LR_LORA)
    setting.step()
    return model


def _train_in_subspace(network: nn.Module, d: int, after: Task, plan: Plan, setting: Setting) -> float:
    model = Subspace(network, d)
    digits.train(model, model.parameters(), after, steps=plan.steps, lr=LR_SUBSPACE)
    setting.step()
    return digits.accuracy(model, after)
