"""axolotl's `model_quantization_config`: FP8 and MXFP4 checkpoints, kept as they are or dequantized.

Source: axolotl 067b021, loaders/model.py, _set_quantization_config and _prepare_model_for_quantization.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.interop.imports.keys import Keys

#: The key, and that of the config's arguments.
KEY, ARGUMENTS = "model_quantization_config", "model_quantization_config_kwargs"

#: The arguments of FineGrainedFP8Config that a request has.
READ = ("weight_block_size", "activation_scheme")


def kept_base(keys: Keys, name: str) -> dict[str, Any]:
    """Return the base of LoRA that stays in FP8; empty for a model that is dequantized while it is loaded."""
    kind, given = keys.take(KEY), keys.take(ARGUMENTS)
    arguments = dict(given) if isinstance(given, dict) else {}
    if kind is None or arguments.pop("dequantize", False) is True:
        return {}
    if kind != "FineGrainedFP8Config":
        why = "transformers does not train over this format: the weights are dequantized, as with dequantize true"
        keys.miss(KEY, kind, why)
        return {}
    if name != "lora":
        keys.miss(KEY, kind, "a base in FP8 is modeled with adapter lora: the weights are dequantized")
        return {}
    settings = {key: arguments.pop(key) for key in READ if key in arguments}
    if arguments:
        keys.miss(ARGUMENTS, arguments, f"only dequantize, {' and '.join(READ)} are read")
    return {"quantization_config": {"quant_method": "fp8", **settings}, "prepare_model_for_kbit_training": False}
