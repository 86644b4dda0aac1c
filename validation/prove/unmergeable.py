"""Counter-examples that show why adapters, prefixes and prompts cannot be merged.

A merged method is a layer of the base's kind with other weights. A linear layer is affine for any weights, and so is
attention over a single token: its softmax is 1, and its output W_o·W_v·x. An affine f has
f(x + y) − f(x) − f(y) + f(0) = 0. If the real modules do not, no weights of the base's layer can equal them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import peft
import torch
from torch import Tensor, nn

from calculator.estimation.request import parse_request
from calculator.methods import Adapter
from validation.measure.step_cases import TINY
from validation.prove.claim import Check, Claim, Figure
from validation.prove.merged_layer import Layer
from validation.reference.bottleneck import Bottleneck
from validation.reference.build import build_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from validation.prove.experiment import Setting

#: The largest defect of an affine map in single precision, and a defect that rounding cannot explain.
ROUNDED, NOT_ROUNDED = 1e-5, 1e-2
PAIRS = 64
VIRTUAL_TOKENS = 10
STEPS = 6


def claim(setting: Setting) -> Claim:
    """Measure the defect of each map; a LoRA update and attention without virtual tokens are the controls."""
    width = int(str(TINY["hidden_size"]))
    maps: dict[str, tuple[str, Callable[[Tensor], Tensor], bool]] = {
        "lora": ("a LoRA layer", Layer(width, torch.float32, setting.device, size=0.5).output, True),
        "linear": ("an adapter without its non-linearity", _adapter(width, setting, nn.Identity()), True),
        "adapter": ("an adapter", _adapter(width, setting, None), False),
        "attention": ("attention over one token", _attention({"name": "full"}, setting), True),
        "prefix": ("attention after a prefix", _attention({"name": "prefix"}, setting), False),
        "prompt": ("attention after a prompt", _attention({"name": "prompt"}, setting), False),
    }
    figures, checks = [], []
    for key, (name, mapped, affine) in maps.items():
        figure = Figure(key=key, name=f"defect of {name}", value=defect(mapped, width, setting.device))
        figures.append(figure)
        checks.append(
            Check(figure=figure, relation="at most", bounds=(ROUNDED,), tolerance=True)
            if affine
            else Check(figure=figure, relation="at least", bounds=(NOT_ROUNDED,))
        )
        setting.step()
    return Claim(
        id="unmergeable",
        lesson="LoRA merges into the base's weights; adapters, prefixes and prompts cannot.",
        done="The base's layers are affine in one token for any weights, so f(x + y) − f(x) − f(y) + f(0) is zero. The"
        f" defect is its norm over that of f(x + y) − f(0), for {PAIRS} pairs of tokens and the real modules.",
        figures=tuple(figures),
        checks=tuple(checks),
        remark="An adapter cannot merge because of its non-linearity, a prefix or prompt because of the softmax over"
        " virtual tokens.",
    )


@torch.no_grad()
def defect(f: Callable[[Tensor], Tensor], width: int, device: torch.device) -> float:
    """Return the relative defect of a map of tokens (n, width) from an affine map."""
    x, y = torch.randn(2, PAIRS, width, device=device)
    zero = f(torch.zeros_like(x))
    return float((f(x + y) - f(x) - f(y) + zero).norm() / (f(x + y) - zero).norm())


def _adapter(width: int, setting: Setting, act: nn.Module | None) -> Callable[[Tensor], Tensor]:
    module = Bottleneck(width, Adapter(), torch.float32).to(setting.device)
    module.act = act or module.act
    return module.forward


def _attention(method: dict[str, Any], setting: Setting) -> Callable[[Tensor], Tensor]:
    """Return the map of a token through a Llama's attention, after PEFT's prefix or prompt if the method has one."""
    if method["name"] != "full":
        method = method | {"num_virtual_tokens": VIRTUAL_TOKENS}
    request = parse_request({"model": {"config": TINY}, "method": method, "training": {"dtype": "float32"}})
    wrapped = build_model(request, setting.device).model.eval()
    model = (wrapped.get_base_model() if isinstance(wrapped, peft.PeftModel) else wrapped).model
    layer = model.layers[0]

    def attend(x: Tensor) -> Tensor:
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

    return attend
