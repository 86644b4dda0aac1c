"""The initialization of A and B. Only MiCA changes a step's memory, because it freezes B.

Source: peft 0.21, tuners/lora/layer.py, LoraLayer.update_layer and the methods that it calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from calculator.common.errors import Problem
from calculator.methods.low_rank.eva_config import SETTINGS, rho_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.methods.low_rank.method import LowRank

Initialization = Literal[
    "gaussian",
    "eva",
    "olora",
    "pissa",
    "pissa_niter_4",
    "pissa_niter_16",
    "corda",
    "loftq",
    "orthogonal",
    "lora_ga",
    "mica",
]

#: What to use instead of values that PEFT also accepts.
INSTEAD = {f"pissa_niter_{n}": "pissa_niter_16 has the same memory" for n in (1, 2, 8, 32, 64)}

#: The defaults of PEFT's LoftQConfig.
LOFTQ_CONFIG = {"loftq_bits": 4, "loftq_iter": 1}

#: The initializations that PEFT refuses over a base in 4 or 8 bits, or that overwrite it.
DENSE_ONLY = ("pissa", "pissa_niter_4", "pissa_niter_16", "corda", "loftq", "lora_ga", "mica")

_OF_WEIGHTS = (
    "That memory is part of loading in the answer about a whole run (/run), without cuSOLVER's workspaces; all else is"
    " of steps after that"
)
_OF_SAMPLES = (
    "That memory is part of loading in the answer about a whole run (/run) where the weights are read onto the GPU,"
    " without the passes of the samples, which the script makes, and without cuSOLVER's workspaces"
)
_FAST = (
    "PiSSA approximates the largest singular values of each adapted weight in float32, one after another, and replaces"
    f" the weight by the remainder, in its dtype, before the first step. {_OF_WEIGHTS}."
)
_SENTENCES = {
    "pissa": "PiSSA computes the singular value decomposition of each adapted weight in float32, one after another,"
    f" and replaces the weight by the remainder, in its dtype, before the first step. {_OF_WEIGHTS}.",
    "pissa_niter_4": _FAST,
    "pissa_niter_16": _FAST,
    "olora": "OLoRA computes the QR decomposition of each adapted weight in float32, one after another, and replaces"
    f" the weight by the remainder, in its dtype, before the first step. {_OF_WEIGHTS}.",
    "loftq": "LoftQ quantizes each adapted weight, decomposes the error, and replaces the weight by the dequantized one"
    f" before the first step (4 bits, loftq_iter 1). {_OF_WEIGHTS}, over weights in the model's dtype.",
    "corda": "CorDA runs the model on samples and decomposes each adapted weight before the first step (PEFT's"
    " preprocess_corda), for which it keeps a float32 matrix of in_features × in_features for each, and all singular"
    f" vectors in host memory. {_OF_SAMPLES}.",
    "eva": "EVA runs the model on samples before the first step (PEFT's initialize_lora_eva_weights), in batches of a"
    " micro-batch's size whose tokens are all used, and decomposes inputs of modules, from a third pass on in float64."
    " That memory is part of loading in the answer about a whole run (/run) where the weights are read onto the GPU,"
    " on one GPU, and without cuSOLVER's workspaces. The figures of steps are for the ranks in the request.",
    "lora_ga": "LoRA-GA computes gradients of the adapted weights before the first step (PEFT's preprocess_loraga), and"
    f" keeps all of them until A and B are made. {_OF_SAMPLES}.",
    "mica": "MiCA computes the singular value decomposition of each adapted weight in float32, one after another,"
    f" before the first step, and freezes B. {_OF_WEIGHTS}.",
}


def before_the_steps(method: LowRank) -> tuple[str, ...]:
    """Return sentences on what the initialization does before the first step."""
    kind = method.init_lora_weights
    return (_SENTENCES[kind],) if isinstance(kind, str) and kind in _SENTENCES else ()


def problems(method: LowRank) -> Iterator[Problem]:
    """Yield settings that PEFT refuses with an initialization, and settings that fail."""
    kind = method.init_lora_weights
    if kind in DENSE_ONLY and method.quantizes_base:
        message = f"PEFT initializes {kind} over weights in 16 or 32 bits only: use gaussian, or true"
        yield Problem(loc="method.init_lora_weights", msg=message, input=kind)
    unlisted = {"corda": ("all-linear", None), "lora_ga": ("all-linear",)}.get(str(kind), ())
    if method.target_modules in unlisted:
        message = f"PEFT's preprocessing for {kind} compares modules with listed names only: list them, or use true"
        yield Problem(loc="method.target_modules", msg=message, input=method.target_modules)
    if kind == "olora" and getattr(method, "blocksize", 64) != 64:
        message = "OLoRA quantizes the base again, in blocks of 64: set method.blocksize 64"
        yield Problem(loc="method.init_lora_weights", msg=message, input=kind)
    if kind == "eva":
        yield from _eva_problems(method)
    if kind == "mica" and method.use_dora:
        message = "PEFT has no MiCA with DoRA: set method.use_dora false, or use true"
        yield Problem(loc="method.init_lora_weights", msg=message, input=kind)
    odd = next((r for r in (method.r, *method.rank_pattern.values()) if r % 2), None)
    if kind == "orthogonal" and odd is not None:
        message = f"PEFT's orthogonal initialization needs even ranks, not {odd}"
        yield Problem(loc="method.init_lora_weights", msg=message, input=kind)


def _eva_problems(method: LowRank) -> Iterator[Problem]:
    """Yield settings that EvaConfig and EVA's hooks refuse, and settings of EvaConfig that do not change memory."""
    others = [name for name in method.eva_config or () if name not in SETTINGS]
    if others:
        message = f"only {', '.join(SETTINGS)} changes memory: leave {', '.join(others)} out"
        yield Problem(loc="method.eva_config", msg=message, input=method.eva_config)
    if rho_of(method.eva_config) < 1:
        message = "PEFT takes a rho of 1 or more: use 1 to keep every rank"
        yield Problem(loc="method.eva_config", msg=message, input=method.eva_config)
    if method.trainable_token_indices:
        message = (
            "EVA's hooks fail on the token ids that an embedding with trained rows receives: leave it out, or use true"
        )
        yield Problem(loc="method.trainable_token_indices", msg=message, input=list(method.trainable_token_indices))
