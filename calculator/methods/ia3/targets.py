"""The modules that IA³ adapts by default, and those whose input it scales."""

#: The modules that `target_modules=None` adapts, by model_type.
#: Source: peft 0.21, peft/utils/constants.py, TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING.
DEFAULT_TARGETS: dict[str, tuple[str, ...]] = {
    "bart": ("q_proj", "v_proj", "fc2"),
    "bert": ("key", "value", "output.dense"),
    "bloom": ("query_key_value", "mlp.dense_4h_to_h"),
    "deberta": ("in_proj", "output.dense"),
    "deberta-v2": ("key_proj", "value_proj", "output.dense"),
    "falcon": ("query_key_value", "dense_4h_to_h"),
    "gemma": ("q_proj", "v_proj", "down_proj"),
    "gemma2": ("q_proj", "v_proj", "down_proj"),
    "gemma3_text": ("q_proj", "v_proj", "down_proj"),
    "gpt2": ("c_attn", "mlp.c_proj"),
    "gpt_bigcode": ("c_attn", "mlp.c_proj"),
    "gpt_neo": ("q_proj", "v_proj", "c_proj"),
    "gpt_neox": ("query_key_value", "dense_4h_to_h"),
    "gptj": ("q_proj", "v_proj", "fc_out"),
    "llama": ("k_proj", "v_proj", "down_proj"),
    "mistral": ("k_proj", "v_proj", "down_proj"),
    "mixtral": ("k_proj", "v_proj", "w2"),
    "mt5": ("k", "v", "wi_1"),
    "opt": ("q_proj", "k_proj", "fc2"),
    "phi": ("q_proj", "v_proj", "fc2"),
    "qwen2": ("q_proj", "v_proj", "down_proj"),
    "qwen3": ("q_proj", "v_proj", "down_proj"),
    "roberta": ("key", "value", "output.dense"),
    "t5": ("k", "v", "wo"),
}

#: The modules that `feedforward_modules=None` treats as feed-forward, by model_type.
#: Source: the same file, TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING.
DEFAULT_FEEDFORWARD: dict[str, tuple[str, ...]] = {
    "bart": ("fc2",),
    "bert": ("output.dense",),
    "bloom": ("mlp.dense_4h_to_h",),
    "deberta": ("output.dense",),
    "deberta-v2": ("output.dense",),
    "falcon": ("dense_4h_to_h",),
    "gemma": ("down_proj",),
    "gemma2": ("down_proj",),
    "gemma3_text": ("down_proj",),
    "gpt2": ("mlp.c_proj",),
    "gpt_bigcode": ("mlp.c_proj",),
    "gpt_neo": ("c_proj",),
    "gpt_neox": ("dense_4h_to_h",),
    "gptj": ("fc_out",),
    "llama": ("down_proj",),
    "mistral": ("down_proj",),
    "mixtral": ("w2",),
    "mt5": (),
    "opt": ("fc2",),
    "phi": ("fc2",),
    "qwen2": ("down_proj",),
    "qwen3": ("down_proj",),
    "roberta": ("output.dense",),
    "t5": ("wo",),
}
