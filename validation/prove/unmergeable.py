"""Why adapters, prefixes and prompts can't be merged: a counter-example to each that one could.

A merged method is a layer of the base's own kind with other weights. A linear layer is affine whatever its weights are,
and so is attention over a single token: its softmax is 1, and its output W_o·W_v·x. An affine f has
f(x + y) − f(x) − f(y) + f(0) = 0. Where the real modules have not, no weights of the base's layer give what they do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import peft
import torch
from torch import Tensor, nn

from calculator.estimate.request import parse_request
from calculator.methods import Adapter
from validation.measure.step_cases import TINY
from validation.prove.claim import Check, Claim, Figure
from validation.prove.merged_layer import Layer
from validation.reference.bottleneck import Bottleneck
from validation.reference.build import built

if TYPE_CHECKING:
    from collections.abc import Callable

    from validation.prove.experiment import Setting

#: What rounding may leave of an affine map's zero, in single precision; and what it can't.
ROUNDED, NOT_ROUNDED = 1e-5, 1e-2
PAIRS = 64
VIRTUAL_TOKENS = 10
STEPS = 6


def claim(setting: Setting) -> Claim:
    """The defect of each map; an update that merges and attention without virtual tokens are the controls."""
    width = int(str(TINY["hidden_size"]))
    maps: dict[str, tuple[str, Callable[[Tensor], Tensor], bool]] = {
        "lora": ("a LoRA layer", Layer(width, torch.float32, setting.device, size=0.5).output, True),
        "linear": ("an adapter without its non-linearity", _adapter(width, setting, nn.Identity()), True),
        "adapter": ("an adapter", _adapter(width, setting, None), False),
        "attention": ("attention over one token", _attention({"name": "full"}, setting), True),
        "prefix": ("the same behind a prefix", _attention({"name": "prefix"}, setting), False),
        "prompt": ("the same behind a prompt", _attention({"name": "prompt"}, setting), False),
    }
    figures, checks = [], []
    for key, (name, told, affine) in maps.items():
        figure = Figure(key=key, name=f"how far {name} is from affine", value=defect(told, width, setting.device))
        figures.append(figure)
        checks.append(
            Check(figure=figure, relation="at most", bounds=(ROUNDED,), tolerance=True)
            if affine
            else Check(figure=figure, relation="at least", bounds=(NOT_ROUNDED,))
        )
        setting.step()
    return Claim(
        id="unmergeable",
        lesson="LoRA merges into the base's weights; adapters, prefixes and prompts can't.",
        done="The base's layers are affine in one token, whatever their weights: f(x + y) − f(x) − f(y) + f(0) must"
        f" vanish, here over that of f(x + y) − f(0) in norm, for {PAIRS} pairs of tokens through the real modules.",
        figures=tuple(figures),
        checks=tuple(checks),
        remark="What keeps an adapter apart is its non-linearity; a prefix or prompt, the softmax over virtual tokens.",
    )


@torch.no_grad()
def defect(told: Callable[[Tensor], Tensor], width: int, device: torch.device) -> float:
    """How far a map of tokens (n, width) is from affine."""
    x, y = torch.randn(2, PAIRS, width, device=device)
    zero = told(torch.zeros_like(x))
    return float((told(x + y) - told(x) - told(y) + zero).norm() / (told(x + y) - zero).norm())


def _adapter(width: int, setting: Setting, act: nn.Module | None) -> Callable[[Tensor], Tensor]:
    module = Bottleneck(width, Adapter(), torch.float32).to(setting.device)
    module.act = act or module.act
    return module.forward


def _attention(method: dict[str, Any], setting: Setting) -> Callable[[Tensor], Tensor]:
    """A token through a Llama's attention, behind PEFT's prefix or prompt where the method has one."""
    if method["name"] != "full":
        method = method | {"num_virtual_tokens": VIRTUAL_TOKENS}
    request = parse_request({"model": {"config": TINY}, "method": method, "training": {"dtype": "float32"}})
    wrapped = built(request, setting.device).model.eval()
    model = (wrapped.get_base_model() if isinstance(wrapped, peft.PeftModel) else wrapped).model
    layer = model.layers[0]

    def told(x: Tensor) -> Tensor:
        past, hidden = None, x[:, None]
        if method["name"] == "prefix":
            past = wrapped.get_prompt(batch_size=len(x))
        elif method["name"] == "prompt":
            prompt = layer.input_layernorm(wrapped.get_prompt(batch_size=len(x)))
            hidden = torch.cat([prompt, hidden], dim=1)
        first = VIRTUAL_TOKENS if past is not None else 0
        positions = torch.arange(first, first + hidden.shape[1], device=x.device)[None]
        angles = model.rotary_emb(hidden, positions)
        out, _ = layer.self_attn(hidden, position_embeddings=angles, attention_mask=None, past_key_values=past)
        last: Tensor = out[:, -1]
        return last

    return told
