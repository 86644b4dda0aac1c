"""One network pretrained on one part of the digits and fine-tuned on another: in full, by LoRA, in random subspaces."""

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
#: Adam's rates: of those tried on one seed, in steps of three, the ones that told most digits right on the whole.
LR_FULL, LR_LORA, LR_SUBSPACE = 3e-3, 1e-2, 1e-1

#: The lesson's ranks begin at 4; here two below them too.
RANKS = (1, 2, 4, 8, 16)
DIMENSIONS = (8, 16, 32, 64, 96, 128, 192, 256)
STARTS: tuple[Start, ...] = ("pretrained", "random")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is tried and how long each training takes."""

    seeds: int = 5
    steps: int = 400
    ranks: tuple[int, ...] = RANKS
    dimensions: tuple[int, ...] = DIMENSIONS

    @property
    def trainings(self) -> int:
        """How often a network is trained for one change and one seed."""
        return 2 + len(self.ranks) + len(STARTS) * len(self.dimensions)


QUICK = Plan(seeds=1, steps=80, ranks=(1, 8), dimensions=(16, 128))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """What one change and one seed came to: accuracies on test images, and how much higher they are on trained ones."""

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
        """The update between the hidden layers."""
        return self.updates[1]

    def lost(self, r: int) -> float:
        """How much less accurate LoRA is than full fine-tuning."""
        return self.full - self.lora[r]

    def dimension(self, start: Start) -> float:
        """d90 from a start."""
        return intrinsic_dimension(self.subspace[start], self.full)


def tuned(change: Change, seed: int, plan: Plan, setting: Setting) -> Tuned:
    """Pretrain, then fine-tune in every way from there."""
    torch.manual_seed(seed)
    before, after = _parts(change, digits.task(seed, setting.device))
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
    return Tuned(
        parameters=sum(parameter.numel() for parameter in pretrained.parameters()),
        before=digits.accuracy(pretrained, after),
        full=digits.accuracy(full, after),
        full_gap=digits.gap(full, after),
        updates=tuple((new.weight - old.weight).detach() for new, old in layers),
        lora={r: digits.accuracy(model, after) for r, model in adapted.items()},
        lora_gap={r: digits.gap(model, after) for r, model in adapted.items()},
        subspace={
            start: {d: _in_subspace(network, d, after, plan, setting) for d in plan.dimensions}
            for start, network in starts.items()
        },
    )


def _parts(change: Change, whole: Task) -> tuple[Task, Task]:
    """What is pretrained on and what is fine-tuned on."""
    if change == "new digits":
        return whole.only(range(5)), whole.only(range(5, 10))
    return whole, whole.turned()


def _adapted(pretrained: nn.Sequential, r: int, after: Task, plan: Plan, setting: Setting) -> nn.Module:
    """LoRA on every layer, alpha = r, so that the update is BA itself; biases stay as they are."""
    names = [name for name, module in pretrained.named_children() if module in digits.linear_layers(pretrained)]
    config = peft.LoraConfig(r=r, lora_alpha=r, target_modules=names)
    model: nn.Module = peft.get_peft_model(deepcopy(pretrained), config)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    digits.train(model, trained, after, steps=plan.steps, lr=LR_LORA)
    setting.step()
    return model


def _in_subspace(network: nn.Module, d: int, after: Task, plan: Plan, setting: Setting) -> float:
    model = Subspace(network, d)
    digits.train(model, model.parameters(), after, steps=plan.steps, lr=LR_SUBSPACE)
    setting.step()
    return digits.accuracy(model, after)
