"""With B = 0 an adapted model equals its base model bit for bit, for any A."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from calculator.estimation.request import parse_request
from calculator.methods import Adapter, LoRA, QLoRA
from validation.measure.step_cases import TINY
from validation.prove.by_hand import by_hand
from validation.prove.claim import Check, Claim, Figure
from validation.prove.experiment import Experiment, Findings, Setting
from validation.reference import bottleneck, methods
from validation.reference.build import build_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.estimation.request import Request

#: Standard deviations of A's entries; PEFT's initial values have about 1/√k.
SPREADS = (1e-3, 1.0, 1e3)
#: A standard deviation so large that A·x overflows.
OVERFLOWING = 3e38

DTYPES = ("float32", "bfloat16")
LENGTH = 16

#: The dtypes and methods of DoRA, and the allowed error, in roundings, of a recomputed norm through the layers.
DORA = (("float32", "lora"), ("bfloat16", "lora"), ("float32", "qlora"), ("bfloat16", "qlora"))
DORA_ROUNDINGS = 8


def run(setting: Setting) -> Findings:
    """Test the claims about LoRA, QLoRA, DoRA and adapters, and the product by hand."""
    claims = [
        _low_rank(
            setting, "lora", "With B = 0 LoRA gives the base model's output, whatever A is (practice problem 2)."
        ),
        _low_rank(setting, "qlora", "The same for QLoRA, whose base is in NF4."),
        _dora(setting),
        _adapters(setting),
        by_hand(setting.device),
    ]
    return Findings(claims=tuple(claims))


def _request(method: dict[str, Any], dtype: str) -> Request:
    options = {} if method["name"] in ("full", "adapter") else {"r": 8, "target_modules": "all-linear"}
    training = {"dtype": dtype, "sequence_length": LENGTH}
    return parse_request({"model": {"config": TINY}, "method": {**options, **method}, "training": training})


class Pair:
    """A base model's output, and the same model with a method applied."""

    def __init__(self, method: dict[str, Any], dtype: str, device: torch.device) -> None:
        self.request = _request(method, dtype)
        self.ids = torch.randint(0, TINY["vocab_size"], (2, LENGTH), device=device)
        applied = self.request.method
        base = self._base(device, quantized=isinstance(applied, QLoRA))
        self.base = self._logits(base)
        if isinstance(applied, LoRA | QLoRA):
            self.model = methods.low_rank(base, applied, self.request.training.adapter_dtype).eval()
        else:
            assert isinstance(applied, Adapter)
            bottleneck.insert(base, applied, methods.adapter_dtype(self.request))
            self.model = base.eval()

    def _base(self, device: torch.device, *, quantized: bool) -> nn.Module:
        """Return the model without a method; a 4-bit base is built with its adapters, which are removed again."""
        if quantized:
            return build_model(self.request, device).model.unload().eval()
        plain = _request({"name": "full"}, self.request.training.dtype)
        return build_model(plain, device).model.eval()

    @torch.no_grad()
    def _logits(self, model: nn.Module) -> Tensor:
        return model(input_ids=self.ids).logits

    def logits(self) -> Tensor:
        """Return the output of the model with the method."""
        return self._logits(self.model)

    @torch.no_grad()
    def fill(self, part: str, spread: float) -> None:
        """Fill the parameters whose names contain `part` with Gaussian numbers of standard deviation `spread`."""
        for name, parameter in self.model.named_parameters():
            if part in name:
                parameter.copy_(torch.randn(parameter.shape, device=parameter.device).mul_(spread))


def differing_bits(a: Tensor, b: Tensor) -> int:
    """Return the number of elements that differ in any bit, including the sign of zero."""
    whole = torch.int32 if a.dtype == torch.float32 else torch.int16
    return int((a.view(whole) != b.view(whole)).sum())


def _compared(setting: Setting, name: str) -> Iterator[tuple[str, Pair]]:
    for dtype in DTYPES[: 1 if setting.quick else None]:
        yield dtype, Pair({"name": name}, dtype, setting.device)
        setting.step()


def _low_rank(setting: Setting, name: str, lesson: str) -> Claim:
    figures, lost = [], 0
    for dtype, pair in _compared(setting, name):
        outputs = [pair.logits()]
        for size in SPREADS:
            pair.fill("lora_A", size)
            outputs.append(pair.logits())
        differing = sum(differing_bits(out, pair.base) for out in outputs)
        compared = sum(out.numel() for out in outputs)
        label = f"logits that differ in any bit, of {compared:,}, in {dtype}"
        figures.append(Figure(key=f"differing_{dtype}", name=label, value=differing, unit="logits"))
        pair.fill("lora_A", OVERFLOWING)
        lost += int(pair.logits().isnan().sum())
    beyond = Figure(key="nan_where_overflowing", name="logits that are NaN if A·x overflows", value=lost, unit="logits")
    return Claim(
        id=f"identity-{name}",
        lesson=lesson,
        done="PEFT's layers in place of every linear layer of a two-layer Llama, with PEFT's initial A and with A from"
        f" Gaussians of {len(SPREADS)} standard deviations; the logits are compared bit by bit.",
        figures=(*figures, beyond),
        checks=tuple(Check(figure=figure, relation="equal to", bounds=(0,)) for figure in figures),
        remark=f"In floating point A·x must be finite: if it overflows, {lost:,} logits become NaN, because 0 × ∞ is"
        " NaN."
        if lost
        else None,
    )


def _relative(out: Tensor, expected: Tensor) -> float:
    return float((out.double() - expected.double()).norm() / expected.double().norm())


def _dora(setting: Setting) -> Claim:
    figures, checks = [], []
    for dtype, method in DORA[: 1 if setting.quick else None]:
        pair = Pair({"name": method, "use_dora": True}, dtype, setting.device)
        outputs = [pair.logits()]
        for size in SPREADS:
            pair.fill("lora_A", size)
            outputs.append(pair.logits())
        name = f"largest relative error of the logits, {method} in {dtype}"
        error = Figure(key=f"{method}_{dtype}", name=name, value=max(_relative(out, pair.base) for out in outputs))
        tolerance = DORA_ROUNDINGS * torch.finfo(getattr(torch, dtype)).eps
        figures.append(error)
        checks.append(Check(figure=error, relation="at most", bounds=(tolerance,), tolerance=True))
        setting.step()
    return Claim(
        id="identity-dora",
        lesson="The same for DoRA, whose magnitudes start as the norms of the base's rows.",
        done="PEFT's DoRA on every linear layer of the same models, with A as for LoRA. The tolerance is"
        f" {DORA_ROUNDINGS} units in the last place of the base's data type.",
        figures=tuple(figures),
        checks=tuple(checks),
        remark="A row is divided by its recomputed norm and multiplied by a magnitude in float32; in bfloat16 the two"
        " differ."
        if any(figure.value for figure in figures)
        else None,
    )


def _adapters(setting: Setting) -> Claim:
    figures, initial = [], []
    for dtype, pair in _compared(setting, "adapter"):
        initial.append(_relative(pair.logits(), pair.base))
        pair.fill(".up.", 0.0)
        label = f"logits that differ in any bit, in {dtype}"
        figures.append(
            Figure(key=f"differing_{dtype}", name=label, value=differing_bits(pair.logits(), pair.base), unit="logits")
        )
    unchanged = Figure(key="error_as_drawn", name="relative error with PyTorch's initial values", value=max(initial))
    return Claim(
        id="identity-adapter",
        lesson="An adapter whose up-projection is zero returns its input, so the model is unchanged.",
        done="Two bottleneck adapters per layer; the up-projection and its bias are zero, the down-projection is"
        " random.",
        figures=(*figures, unchanged),
        checks=tuple(Check(figure=figure, relation="equal to", bounds=(0,)) for figure in figures),
        remark="The zeros must be set: with nn.Linear's random initial values the output changes by that relative"
        " error.",
    )


def steps(quick: bool) -> int:
    """Return the number of steps."""
    return 4 if quick else 10


EXPERIMENT = Experiment(
    name="identity",
    title="Identity at initialization",
    section="2. LoRA; practice problem 2; worked example 3",
    steps=steps,
    run=run,
)
