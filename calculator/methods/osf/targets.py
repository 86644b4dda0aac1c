"""The modules that OSF adapts by default."""

_ATTENTION = ("q_proj", "k_proj", "v_proj")
_GATED = (*_ATTENTION, "o_proj", "gate_proj", "down_proj", "up_proj")
_FUSED = ("query_key_value", "dense_4h_to_h")
_CONV1D = ("c_attn", "c_proj")

#: The modules that `target_modules=None` adapts, by model_type; in other families, every linear layer.
#: Source: peft 0.21, peft/utils/constants.py, TRANSFORMERS_MODELS_TO_OSF_TARGET_MODULES_MAPPING.
DEFAULT_TARGETS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("llama", "mistral", "mixtral", "gemma", "gemma2", "gemma3_text", "qwen2", "qwen3", "phi"), _GATED),
    **dict.fromkeys(("gpt2", "gpt_bigcode"), _CONV1D),
    **dict.fromkeys(("bloom", "gpt_neox", "falcon"), _FUSED),
    "opt": (*_ATTENTION, "out_proj", "fc1", "fc2"),
    "gptj": (*_ATTENTION, "out_proj", "fc_in", "fc_out"),
}
