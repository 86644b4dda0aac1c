"""With B = 0 an adapted model is its base model, bit for bit, whatever A is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from calculator.estimate.request import parse_request
from calculator.methods import Adapter, LoRA, QLoRA
from validation.measure.step_cases import TINY
from validation.prove.by_hand import by_hand
from validation.prove.claim import Check, Claim, Figure
from validation.prove.experiment import Experiment, Findings, Setting
from validation.reference import bottleneck, methods
from validation.reference.build import built

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.estimate.request import Request

#: How large A's entries are; PEFT's own are about 1/√k.
SPREADS = (1e-3, 1.0, 1e3)
#: So large that A·x overflows.
OVERFLOWING = 3e38

DTYPES = ("float32", "bfloat16")
LENGTH = 16

#: What DoRA is run on, and how many roundings a norm that is computed anew may take through the layers.
DORA = (("float32", "lora"), ("bfloat16", "lora"), ("float32", "qlora"), ("bfloat16", "qlora"))
DORA_ROUNDINGS = 8


def run(setting: Setting) -> Findings:
    """The claims on LoRA, QLoRA, DoRA and adapters, and the product by hand."""
    claims = [
        _low_rank(
            setting, "lora", "With B = 0 LoRA gives the base model's output, whatever A is (practice problem 2)."
        ),
        _low_rank(setting, "qlora", "The same for QLoRA, beside its base in NF4."),
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
    """A base model's output, and the same model with a method's modules in it."""

    def __init__(self, method: dict[str, Any], dtype: str, device: torch.device) -> None:
        self.request = _request(method, dtype)
        self.ids = torch.randint(0, TINY["vocab_size"], (2, LENGTH), device=device)
        told = self.request.method
        base = self._base(device, quantized=isinstance(told, QLoRA))
        self.base = self._logits(base)
        if isinstance(told, LoRA | QLoRA):
            self.model = methods.low_rank(base, told, self.request.training.adapter_dtype).eval()
        else:
            assert isinstance(told, Adapter)
            bottleneck.insert(base, told, methods.adapter_dtype(self.request))
            self.model = base.eval()

    def _base(self, device: torch.device, *, quantized: bool) -> nn.Module:
        """The model without a method; a base in 4 bits is built with its adapters, which are taken out again."""
        if quantized:
            return built(self.request, device).model.unload().eval()
        plain = _request({"name": "full"}, self.request.training.dtype)
        return built(plain, device).model.eval()

    @torch.no_grad()
    def _logits(self, model: nn.Module) -> Tensor:
        return model(input_ids=self.ids).logits

    def logits(self) -> Tensor:
        """The adapted model's output."""
        return self._logits(self.model)

    @torch.no_grad()
    def fill(self, part: str, spread: float) -> None:
        """Draw the parameters whose names have a part from a Gaussian; zeros for a spread of 0."""
        for name, parameter in self.model.named_parameters():
            if part in name:
                parameter.copy_(torch.randn(parameter.shape, device=parameter.device).mul_(spread))


def differing_bits(a: Tensor, b: Tensor) -> int:
    """How many of two tensors' numbers differ in any bit, signs of zeros too."""
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
        told = f"logits that differ in any bit, of {compared:,}, in {dtype}"
        figures.append(Figure(key=f"differing_{dtype}", name=told, value=differing, unit="logits"))
        pair.fill("lora_A", OVERFLOWING)
        lost += int(pair.logits().isnan().sum())
    beyond = Figure(key="nan_where_overflowing", name="logits lost where A·x overflows", value=lost, unit="logits")
    return Claim(
        id=f"identity-{name}",
        lesson=lesson,
        done="On every linear layer of a two-layer Llama, by PEFT: A as PEFT draws it and from Gaussians of"
        f" {len(SPREADS)} sizes; logits compared bit by bit.",
        figures=(*figures, beyond),
        checks=tuple(Check(figure=figure, relation="equal to", bounds=(0,)) for figure in figures),
        remark=f"In floating point A must leave A·x finite: where it overflows, 0 × ∞ makes {lost:,} logits no numbers."
        if lost
        else None,
    )


def _relative(out: Tensor, expected: Tensor) -> float:
    return float((out.double() - expected.double()).norm() / expected.double().norm())


def _dora(setting: Setting) -> Claim:
    figures, checks = [], []
    for dtype, told in DORA[: 1 if setting.quick else None]:
        pair = Pair({"name": told, "use_dora": True}, dtype, setting.device)
        outputs = [pair.logits()]
        for size in SPREADS:
            pair.fill("lora_A", size)
            outputs.append(pair.logits())
        name = f"largest relative error of the logits, {told} in {dtype}"
        error = Figure(key=f"{told}_{dtype}", name=name, value=max(_relative(out, pair.base) for out in outputs))
        tolerance = DORA_ROUNDINGS * torch.finfo(getattr(torch, dtype)).eps
        figures.append(error)
        checks.append(Check(figure=error, relation="at most", bounds=(tolerance,), tolerance=True))
        setting.step()
    return Claim(
        id="identity-dora",
        lesson="The same for DoRA, whose magnitudes begin as the norms of the base's rows.",
        done="DoRA on every linear layer of the same models, by PEFT; A as above. The tolerance is"
        f" {DORA_ROUNDINGS} units in the last place of the base's data type.",
        figures=tuple(figures),
        checks=tuple(checks),
        remark="A row is divided by a norm that is computed anew, and times a magnitude in float32: in bfloat16 the two"
        " are not the same."
        if any(figure.value for figure in figures)
        else None,
    )


def _adapters(setting: Setting) -> Claim:
    figures, drawn = [], []
    for dtype, pair in _compared(setting, "adapter"):
        drawn.append(_relative(pair.logits(), pair.base))
        pair.fill(".up.", 0.0)
        told = f"logits that differ in any bit, in {dtype}"
        figures.append(
            Figure(key=f"differing_{dtype}", name=told, value=differing_bits(pair.logits(), pair.base), unit="logits")
        )
    as_drawn = Figure(key="error_as_drawn", name="relative error with PyTorch's own initial values", value=max(drawn))
    return Claim(
        id="identity-adapter",
        lesson="An adapter whose up-projection is zero gives its input, so that the model is unchanged.",
        done="Two bottleneck adapters a layer, up-projection and its bias set to zero, down-projection as drawn.",
        figures=(*figures, as_drawn),
        checks=tuple(Check(figure=figure, relation="equal to", bounds=(0,)) for figure in figures),
        remark="The zero must be set: nn.Linear draws its weights, and the output moves by the error told.",
    )


def steps(quick: bool) -> int:
    """How many steps the experiment takes."""
    return 4 if quick else 10


EXPERIMENT = Experiment(
    name="identity",
    title="Identity at initialisation",
    section="2. LoRA; practice problem 2; worked example 3",
    steps=steps,
    run=run,
)
