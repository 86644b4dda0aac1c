"""The modules that LN Tuning copies by default, and those that it fails to copy."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model

_PRE_NORMS = ("input_layernorm", "post_attention_layernorm")
_GEMMA2 = (*_PRE_NORMS, "pre_feedforward_layernorm", "post_feedforward_layernorm", "norm")

#: The modules that `target_modules=None` copies, by model_type.
#: Source: peft 0.21, peft/utils/constants.py, TRANSFORMERS_MODELS_TO_LNTUNING_TARGET_MODULES_MAPPING.
DEFAULT_TARGETS: dict[str, tuple[str, ...]] = {
    "bart": ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
    "blip-2": ("layernorm", "LayerNorm", "final_layer_norm", "self_attn_layer_norm"),
    "bloom": (*_PRE_NORMS, "ln_f"),
    "falcon": (*_PRE_NORMS, "ln_f"),
    "gemma": (*_PRE_NORMS, "norm"),
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA2,
    "gpt2": ("ln_1", "ln_2", "ln_f"),
    "gptj": ("ln_1", "ln_f"),
    "llama": (*_PRE_NORMS, "norm"),
    "llava": ("multi_modal_projector", *_PRE_NORMS, "norm", "embed_tokens", "lm_head"),
    "mistral": (*_PRE_NORMS, "norm"),
    "mt5": ("layer_norm", "final_layer_norm"),
    "phi": ("input_layernorm", "final_layernorm"),
    "qwen2": ("post_attention_layernorm",),
    "qwen3": ("post_attention_layernorm",),
    "t5": ("layer_norm", "final_layer_norm"),
}


def norms_without_weight(model: Model) -> Iterator[str]:
    """Yield the paths of norms without parameters. PEFT fails when it asks for their device.

    Source: transformers/models/gemma4/modeling_gemma4.py, Gemma4RMSNorm; modernbert/modeling_modernbert.py,
    ModernBertEncoderLayer, whose first has an Identity for a norm; internvl/modeling_internvl.py,
    InternVLVisionAttention, and InternVLVisionModel, with the same; peft/tuners/tuners_utils.py, _replace_module.
    """
    if model.model_type == "modernbert":
        yield from {path for path, _ in model.paths if path.endswith(".attn_norm")}
    if model.model_type == "internvl":
        yield from _internvl_names(model)
    if not model.model_type.startswith("gemma4"):
        return
    for path, _ in model.paths:
        if path.endswith(".k_norm"):
            yield f"{path.removesuffix('k_norm')}v_norm"
        elif path.endswith(".router.proj"):
            yield f"{path.removesuffix('proj')}norm"
        elif path.endswith(".embedding_projection"):
            yield f"{path.removesuffix('embedding_projection')}embedding_pre_projection_norm"


def _internvl_names(model: Model) -> Iterator[str]:
    paths = [path for path, _ in model.paths]
    attention = [path.removesuffix("projection_layer") for path in paths if path.endswith(".projection_layer")]
    absent = [f"{prefix}{name}" for prefix in attention for name in ("q_norm", "k_norm")]
    yield from (path for path in (*absent, "model.vision_tower.layernorm") if path not in paths)
