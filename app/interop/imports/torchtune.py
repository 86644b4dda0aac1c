"""The YAML of torchtune's recipes as a request. The export module names the sources of keys and components."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.interop.exports import torchtune
from app.interop.imports.reference import separated
from app.interop.imports.without_effect import WITHOUT_EFFECT
from calculator.common.errors import refusal
from calculator.trainers.torchtune.check import MLP

if TYPE_CHECKING:
    from app.interop.imports.imported import Imported
    from app.interop.imports.keys import Keys


_QWEN3 = ("0.6B", "1.7B", "4B", "8B", "14B", "32B")

#: Builders of models of which another has the same sizes, or whose step is not modeled, and the catalogue's models.
OTHER_BUILDERS = {
    "llama3_3_70b": "meta-llama/Llama-3.1-70B",
    **{
        f"qwen2_5_{size}": f"Qwen/Qwen2.5-{size.replace('_', '.').upper()}"
        for size in ("1_5b", "7b", "14b", "32b", "72b")
    },
    **{
        f"qwen3_{size}": f"Qwen/Qwen3-{size.replace('_', '.').upper()}"
        for size in ("0_6b", "1_7b", "4b", "8b", "14b", "32b")
    },
    "llama4_scout_17b_16e": "meta-llama/Llama-4-Scout-17B-16E",
    "llama4_maverick_17b_128e": "meta-llama/Llama-4-Maverick-17B-128E",
    **{f"code_llama2_{size}": f"codellama/CodeLlama-{size}-hf" for size in ("7b", "13b", "70b")},
    "gemma_2b": "google/gemma-2b",
    "gemma_7b": "google/gemma-7b",
    "gemma2_2b": "google/gemma-2-2b",
    "gemma2_9b": "google/gemma-2-9b",
    "gemma2_27b": "google/gemma-2-27b",
    "phi3_mini": "microsoft/Phi-3-mini-4k-instruct",
    "phi4_14b": "microsoft/phi-4",
}

_MODELS = {builder.name: builder.id for builder in torchtune.BUILDERS} | OTHER_BUILDERS
_PROJECTIONS = {module: name for name, module in torchtune.PROJECTIONS.items()}

#: Names of the same classes. Source: bitsandbytes/optim, adamw.py and lion.py.
_SAME = {
    "bitsandbytes.optim.PagedAdamW": "bitsandbytes.optim.PagedAdamW32bit",
    "bitsandbytes.optim.Lion": "bitsandbytes.optim.Lion32bit",
    "bitsandbytes.optim.PagedLion": "bitsandbytes.optim.PagedLion32bit",
}

_PACKED = "Packing puts several samples into one row, with a block-diagonal mask of all of its tokens."
_ALIGNED = "Recipes of preferences run a reference in addition to the model."


def imported(keys: Keys, given: Any) -> Imported:
    """Return the request of a configuration; `given` replaces the model that its builder names."""
    _flatten(keys)
    _warn_of_other_commands(keys)
    builder = keys.text("model._component_") or ""
    model = _model(keys, builder, given)
    method = _method(keys, builder)
    training = {"trainer": "torchtune", **_training(keys)}
    if method["name"] != "full":
        training["adapter_dtype"] = "model"
    _data(keys)
    _loss(keys)
    _forget(keys)
    return keys.close("torchtune", {"model": model, "method": method, "training": training})


def _warn_of_other_commands(keys: Keys) -> None:
    """Warn that a file has no optimizer: it is for a recipe that trains nothing."""
    if any(key.startswith("optimizer.") for key in keys.left):
        return
    keys.warn(
        "a file without an optimizer", "Its recipe evaluates, generates or quantizes.", "one that trains the model"
    )
    keys.forget(("tasks", "limit", "max_seq_length", "enable_kv_cache", "max_new_tokens", "temperature", "top_k"))
    keys.forget([key for key in keys.left if key.startswith("prompt")])


def _flatten(keys: Keys) -> None:
    """Give the keys of an object names with dots."""
    for key, value in [*keys.left.items()]:
        if isinstance(value, dict):
            del keys.left[key]
            keys.left |= {f"{key}.{name}": inner for name, inner in value.items()}


def _forget(keys: Keys) -> None:
    """Leave out what does not change the step, with a section as one key."""
    for key in WITHOUT_EFFECT["torchtune"]:
        for name in [name for name in keys.left if name == key or name.startswith(f"{key}.")]:
            del keys.left[name]
            if key not in keys.without_effect:
                keys.without_effect.append(key)


def _name(builder: str) -> str:
    """Return the name of a builder without its module and the prefixes of LoRA's."""
    return (
        builder.rpartition(".")[2].removeprefix("q").removeprefix("lora_")
        if _adapts(builder)
        else _function_name(builder)
    )


def _function_name(builder: str) -> str:
    return builder.rpartition(".")[2]


def _adapts(builder: str) -> bool:
    return _function_name(builder).startswith(("lora_", "qlora_"))


def _model(keys: Keys, builder: str, given: Any) -> Any:
    if given is not None:
        return given
    name = _name(builder)
    if name not in _MODELS:  # those of chat models have the same sizes
        name = name.removesuffix("_base").removesuffix("_instruct")
    if name not in _MODELS:
        message = f"the model is unknown for the builder {builder or 'of this file'}: give a catalogue id, or a config"
        raise refusal("model", message, None)
    if name == "llama3_3_70b":
        keys.miss("model._component_", builder, f"is not in the catalogue: {_MODELS[name]}, of the same sizes, is used")
    split = separated(_MODELS[name])
    if split is not None:
        keys.miss("model._component_", builder, f"has separate projections: {_MODELS[name]} with those is used")
    return split or _MODELS[name]


def _method(keys: Keys, builder: str) -> dict[str, Any]:
    if not _adapts(builder):
        return {"name": "full"}
    in_4_bits = keys.flag("model.quantize_base") or _function_name(builder).startswith("qlora_")
    named = keys.names("model.lora_attn_modules") or []
    unknown = [name for name in named if name not in _PROJECTIONS]
    if unknown:
        keys.miss("model.lora_attn_modules", unknown, f"is not one of {', '.join(_PROJECTIONS)}: it is left out")
    targets = [_PROJECTIONS[name] for name in named if name in _PROJECTIONS]
    targets += MLP if keys.flag("model.apply_lora_to_mlp") else ()
    targets += ["lm_head"] if keys.flag("model.apply_lora_to_output") else ()
    method = {
        "name": "qlora" if in_4_bits else "lora",
        "r": keys.integer("model.lora_rank", 8),
        "lora_alpha": keys.number("model.lora_alpha", 16),
        "lora_dropout": keys.number("model.lora_dropout", 0.0),
        "use_dora": keys.flag("model.use_dora"),
        "target_modules": targets,
    }
    return {**method, "prepare_model_for_kbit_training": False} if in_4_bits else method


def _training(keys: Keys) -> dict[str, Any]:
    training = {
        "micro_batch_size": keys.integer("batch_size", 1),
        "gradient_accumulation_steps": keys.integer("gradient_accumulation_steps", 1),
        "dtype": keys.choice("dtype", _dtypes(), "bfloat16", "bfloat16"),
        "gradient_checkpointing": keys.flag("enable_activation_checkpointing"),
        "max_grad_norm": keys.number("clip_grad_norm", 0.0) or None,
        "optimizer_in_bwd": keys.flag("optimizer_in_bwd"),
        "optimizer": _optimizer(keys),
    }
    return training | _length(keys)


def _dtypes() -> dict[str, str]:
    return torchtune.DTYPES | {name: name for name in torchtune.DTYPES.values()}


def _optimizer(keys: Keys) -> str:
    component, fused = keys.text("optimizer._component_"), keys.flag("optimizer.fused")
    if component is None:
        return "adamw_torch_fused"
    name = next(
        (
            name
            for name, (module, options) in torchtune.OPTIMIZERS.items()
            if module == _SAME.get(component or "", component) and options.get("fused", False) == fused
        ),
        None,
    )
    if name is None:
        keys.miss("optimizer._component_", component, "is not modeled for torchtune: PyTorch's fused AdamW is used")
    return name or "adamw_torch_fused"


def _length(keys: Keys) -> dict[str, Any]:
    """Return the length to which the tokenizer cuts samples, which either place may name."""
    length = keys.integer("tokenizer.max_seq_len", 0) or keys.integer("dataset.max_seq_len", 0)
    if length:
        return {"sequence_length": length}
    keys.miss(
        "tokenizer.max_seq_len", None, "is not set, so samples are not cut: give the length of the longest sample"
    )
    return {}


def _data(keys: Keys) -> None:
    if keys.flag("dataset.packed"):
        keys.warn("dataset.packed: true", _PACKED, "one with a sample of that length in every row")


def _loss(keys: Keys) -> None:
    """Read the loss, which torchtune calls with the output of every chunk."""
    component, chunks = keys.text("loss._component_"), keys.integer("loss.num_output_chunks", 8)
    if chunks != 8:
        keys.miss("loss.num_output_chunks", chunks, "is not modeled: the head runs in 8 chunks")
    if component is None or component == torchtune.LOSS:
        return
    if ".rlhf." in component:
        keys.warn(f"loss: {component}", _ALIGNED, "fine-tuning with the loss of the next token")
        keys.forget([key for key in keys.left if key.startswith("loss.")])
    else:
        keys.miss("loss._component_", component, "is not modeled: CEWithChunkedOutputLoss of torchtune 0.6.1 is used")
