"""The keys of GRPOConfig and RLOOConfig that say what is generated.

Source: TRL 1.16, trainer/grpo_config.py and rloo_config.py; max_prompt_length is of releases before 1.0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.interop.imports.keys import Keys
    from calculator.common.names import TrainerName

#: The default of `num_generations`.
GENERATIONS: dict[TrainerName, int] = {"trl-grpo": 8, "trl-rloo": 2}

#: The default of `max_completion_length`, and of `max_prompt_length`.
COMPLETION, PROMPT = 512, 512

#: Generation settings whose values differ from those of the figures.
_FIXED = {
    "num_iterations": 1,
    "cast_lm_head_to_fp32": False,
    "disable_dropout": False,
    "ds3_gather_for_generation": True,
    "use_bias_correction_kl": True,
    "vllm_importance_sampling_correction": True,
}


#: The vLLM settings of GRPOConfig and RLOOConfig.
_VLLM = ("use_vllm", "vllm_mode", "vllm_gpu_memory_utilization", "vllm_enable_sleep_mode")


#: Where vLLM runs, and what it computes there.
_OF_ENGINE = (
    *("vllm_group_port", "vllm_server_base_url", "vllm_server_host", "vllm_server_port", "vllm_server_timeout"),
    *("vllm_guided_decoding_regex", "vllm_max_model_length", "vllm_model_impl", "vllm_structured_outputs_regex"),
    *("vllm_sync_interval", "vllm_tensor_parallel_size"),
)

#: How tokens are drawn, which allocates on the GPU where `generate` draws them.
_SAMPLING = ("generation_kwargs", "min_p", "repetition_penalty", "temperature", "top_k", "top_p")


def generation(keys: Keys, trainer: TrainerName) -> dict[str, Any]:
    """Return lengths and numbers of completions. The longest sequence that a model is loaded for has no effect."""
    _warn_of_rewards(keys)
    if keys.left.get("max_prompt_length") is None:
        keys.miss("max_prompt_length", None, f"prompts are as long as the dataset's: {PROMPT} tokens are assumed")
    prompt = keys.integer("max_prompt_length", PROMPT)
    completion = _completion(keys, prompt)
    if not keys.left.get("use_vllm"):
        keys.forget(["vllm_importance_sampling_correction"])
    for name, modeled in _FIXED.items():
        value = keys.take(name, modeled)
        if value != modeled:
            keys.miss(name, value, f"is modeled as {str(modeled).lower()}")
    options = keys.left.get("generation_kwargs")
    if isinstance(options, dict) and set(options) <= {"min_new_tokens"}:
        keys.forget(["generation_kwargs"])
    groups = _groups(keys, trainer)
    return {
        "sequence_length": prompt + completion,
        "max_completion_length": completion,
        **groups,
        **_vllm(keys),
    }


def _completion(keys: Keys, prompt: int) -> int:
    """Return the longest completion. Where code computes it, it is what the longest sequence leaves after the prompt.

    So do Unsloth's notebooks, which measure the prompts of their data.
    """
    longest = keys.left.get("max_seq_length")
    keys.forget(["max_seq_length"])
    if "max_completion_length" in keys.script.unread and isinstance(longest, int) and longest > prompt:
        keys.not_understood = [entry for entry in keys.not_understood if entry.key != "max_completion_length"]
        text = keys.script.unread["max_completion_length"]
        why = f"is an expression that is not evaluated: {longest - prompt} tokens, up to max_seq_length, are assumed"
        keys.miss("max_completion_length", text, why)
        return longest - prompt
    return keys.integer("max_completion_length", COMPLETION)


def _groups(keys: Keys, trainer: TrainerName) -> dict[str, Any]:
    """Return the completions of a prompt, unless the file also says how many are generated at once.

    TRL then divides those, and not the rows of an optimizer step, into groups. No figure depends on the groups.
    Source: trainer/grpo_config.py, __post_init__.
    """
    size = keys.integer("num_generations", GENERATIONS[trainer])
    given = {name: keys.take(name) for name in ("steps_per_generation", "generation_batch_size")}
    stated = {name: value for name, value in given.items() if value is not None}
    for name, value in stated.items():
        keys.miss(name, value, "the rows of an optimizer step are generated at once")
    return {} if stated else {"num_generations": size}


def _warn_of_rewards(keys: Keys) -> None:
    """Warn about models that score completions. A function, which a script names and a command imports, is no model.

    Source: TRL 1.16, scripts/grpo.py, and trainer/grpo_trainer.py, which loads a model for text.
    """
    given = keys.take("reward_funcs")
    model = keys.take("reward_model_name_or_path")
    texts = [text for text in (given if isinstance(given, list) else [given]) if isinstance(text, str) and "/" in text]
    if model is not None or texts:
        effect = "A model that scores completions is in memory too, and runs on all completions of a step."
        keys.warn(f"the reward model {model or texts[0]}", effect, "one with reward functions only")
    elif given is not None:
        keys.without_effect.append("reward_funcs")


def _vllm(keys: Keys) -> dict[str, Any]:
    """Return the vLLM settings; none if vLLM does not generate, since its other settings have no effect then."""
    given = {name: value for name in _VLLM if (value := keys.take(name)) is not None}
    keys.forget(_OF_ENGINE)
    if not given.get("use_vllm"):
        return {}
    keys.forget(_SAMPLING)
    unused = _VLLM[2:] if given.get("vllm_mode") == "server" else ()
    return {name: value for name, value in given.items() if name not in unused}
