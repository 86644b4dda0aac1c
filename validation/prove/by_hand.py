"""The lesson's forward pass on 2 × 2 matrices, by PEFT's LoRA layer."""

from __future__ import annotations

import peft
import torch
from torch import Tensor, nn

from validation.prove.claim import Check, Claim, Figure

W, A, B = ((1.0, 2.0), (3.0, 4.0)), (0.1, 0.2), (0.3, 0.4)
ALPHA, R = 1, 2
X = (1.0, 1.0)
STATED = (3.045, 7.06)

#: Four products and their sums, rounded in single precision.
TOLERANCE = 4 * torch.finfo(torch.float32).eps * max(STATED)


def by_hand(device: torch.device) -> Claim:
    """h = W₀x + (alpha/r)·BAx at r = 2, where the lesson's A and B have one row and one column, and at r = 1."""
    stated, full = _layer(R, device), torch.tensor(STATED, device=device)
    out = _output(stated)
    error = Figure(key="error", name="largest error of the two components", value=float((out - full).abs().max()))
    rank = int(torch.linalg.matrix_rank(_update(stated)))
    at_one = _output(_layer(1, device))
    return Claim(
        id="by-hand",
        lesson="W₀ [[1, 2], [3, 4]], A [[0.1, 0.2]], B [[0.3], [0.4]], alpha 1 and r 2 map [1, 1] to [3.045, 7.06].",
        done="PEFT's LoRA layer with r 2; A's second row and B's second column are zero, so BA is unchanged.",
        figures=(
            *_components("", out),
            error,
            Figure(key="rank", name="rank of BA", value=rank),
            *_components(", if r were the rank", at_one, "at_rank_one_"),
        ),
        checks=(Check(figure=error, relation="at most", bounds=(TOLERANCE,), tolerance=True),),
        remark=f"A and B have rank {rank}, not {R}: r enters only through alpha ÷ r = {ALPHA / R:g}. With r = {rank}"
        f" the same matrices give [{at_one[0]:.4g}, {at_one[1]:.4g}].",
    )


def _components(condition: str, out: Tensor, prefix: str = "") -> tuple[Figure, ...]:
    names = ("first", "second")
    return tuple(
        Figure(key=f"{prefix}{name}", name=f"{name} component{condition}", value=float(value))
        for name, value in zip(names, out, strict=True)
    )


@torch.no_grad()
def _layer(r: int, device: torch.device) -> nn.Module:
    parent = nn.Module()
    parent.linear = nn.Linear(2, 2, bias=False, device=device)
    parent.linear.weight.copy_(torch.tensor(W))
    peft.inject_adapter_in_model(peft.LoraConfig(r=r, lora_alpha=ALPHA, target_modules=["linear"]), parent)
    layer = parent.get_submodule("linear")
    a, b = (layer.get_submodule(f"lora_{side}.default").get_parameter("weight") for side in "AB")
    a.zero_()[0] = torch.tensor(A)
    b.zero_()[:, 0] = torch.tensor(B)
    return layer


@torch.no_grad()
def _output(layer: nn.Module) -> Tensor:
    weight = layer.get_parameter("base_layer.weight")
    out: Tensor = layer(torch.tensor(X, device=weight.device))
    return out


def _update(layer: nn.Module) -> Tensor:
    a, b = (layer.get_submodule(f"lora_{side}.default").get_parameter("weight") for side in "AB")
    return b.detach() @ a.detach()
