"""The modules that most methods adapt by default."""

#: The modules that `target_modules=None` adapts, by model_type.
#: Source: peft 0.21, peft/utils/constants.py, TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
#: which the mappings of most other methods equal.
DEFAULT_TARGETS: dict[str, tuple[str, ...]] = {
    "bart": ("q_proj", "v_proj"),
    "bert": ("query", "value"),
    "bloom": ("query_key_value",),
    "deberta-v2": ("query_proj", "value_proj"),
    "falcon": ("query_key_value",),
    "gemma": ("q_proj", "v_proj"),
    "gemma2": ("q_proj", "v_proj"),
    "gemma3_text": ("q_proj", "v_proj"),
    "gemma4": ("q_proj", "v_proj"),
    "gpt2": ("c_attn",),
    "gpt_bigcode": ("c_attn",),
    "gpt_neo": ("q_proj", "v_proj"),
    "gpt_neox": ("query_key_value",),
    "gptj": ("q_proj", "v_proj"),
    "llama": ("q_proj", "v_proj"),
    "mistral": ("q_proj", "v_proj"),
    "mixtral": ("q_proj", "v_proj"),
    "mpt": ("Wqkv",),
    "mt5": ("q", "v"),
    "nemotron_h": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "opt": ("q_proj", "v_proj"),
    "phi": ("q_proj", "v_proj", "fc1", "fc2"),
    "qwen2": ("q_proj", "v_proj"),
    "qwen3": ("q_proj", "v_proj"),
    "roberta": ("query", "value"),
    "stablelm": ("q_proj", "v_proj"),
    "t5": ("q", "v"),
    "xlm-roberta": ("query", "value"),
}

#: The model types whose default in PEFT is a pattern that leaves out the towers: "language_model" and these names.
DEFAULT_PATTERNS = ("gemma4",)

#: The default targets of methods that only adapt attention in phi. Source: peft/utils/constants.py, the mappings of
#: VeRA and SHiRA.
ATTENTION_TARGETS: dict[str, tuple[str, ...]] = DEFAULT_TARGETS | {"phi": ("q_proj", "v_proj")}

#: The default targets of methods that do not adapt a Conv1D. Source: peft/utils/constants.py, the mappings of FourierFT
#: and C3A.
TARGETS_WITHOUT_CONV1D: dict[str, tuple[str, ...]] = DEFAULT_TARGETS | {
    "gpt2": ("mlp.c_proj",),
    "gpt_bigcode": ("mlp.c_proj",),
}
