"""Which modules BEFT adapts by default."""

#: The modules that `target_modules=None` adapts, by model_type.
#: Source: peft 0.21, peft/utils/constants.py, TRANSFORMERS_MODELS_TO_BEFT_TARGET_MODULES_MAPPING.
DEFAULT_TARGETS: dict[str, tuple[str, ...]] = {
    "bart": ("v_proj",),
    "bert": ("value",),
    "deberta-v2": ("value_proj",),
    "gemma": ("v_proj",),
    "gemma2": ("v_proj",),
    "gemma3_text": ("v_proj",),
    "gpt_neo": ("v_proj",),
    "gptj": ("v_proj",),
    "llama": ("v_proj",),
    "mistral": ("v_proj",),
    "mixtral": ("v_proj",),
    "mt5": ("v",),
    "opt": ("v_proj",),
    "phi": ("v_proj",),
    "qwen2": ("v_proj",),
    "qwen3": ("v_proj",),
    "roberta": ("value",),
    "t5": ("v",),
}
