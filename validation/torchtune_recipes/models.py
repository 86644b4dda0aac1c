"""torchtune's builder of a request's model, and its arguments."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from calculator.common.errors import refusal
from calculator.estimation.estimate import model_of
from calculator.methods import LoRA, QLoRA
from calculator.methods.prepared_model import PreparedModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.estimation.request import Request

#: The modules of attention by their names in transformers, and torchtune's names of them.
ATTENTION = {"q_proj": "q_proj", "k_proj": "k_proj", "v_proj": "v_proj", "o_proj": "output_proj"}


def builder(request: Request, *, adapted: bool) -> tuple[str, dict[str, Any]]:
    """Return the path of the builder of a request's model, with LoRA or without, and its arguments.

    Raises:
        PlanError: if torchtune has no such model.
    """
    name, arguments = _family(request)
    path = f"torchtune.models.{name}._component_builders"
    return (f"{path}.lora_{name}", arguments | _lora(request)) if adapted else (f"{path}.{name}", arguments)


def component(path: str) -> Callable[..., Any]:
    """Return the object that a dotted path names."""
    module, _, name = path.rpartition(".")
    builder: Callable[..., Any] = getattr(import_module(module), name)
    return builder


def _family(request: Request) -> tuple[str, dict[str, Any]]:
    model = model_of(request.model)
    config = model.config
    arguments: dict[str, Any] = {
        "vocab_size": int(config["vocab_size"]),
        "num_layers": int(config["num_hidden_layers"]),
        "num_heads": int(config["num_attention_heads"]),
        "num_kv_heads": int(config["num_key_value_heads"]),
        "embed_dim": int(config["hidden_size"]),
        "intermediate_dim": int(config["intermediate_size"]),
        "max_seq_len": int(config["max_position_embeddings"]),
    }
    tied, scaled = bool(model.tied), config.get("rope_type", "default") == "llama3"
    if model.model_type == "qwen2":
        return "qwen2", arguments | {"tie_word_embeddings": tied}
    if model.model_type == "llama" and scaled:
        return "llama3_2" if tied else "llama3_1", arguments
    if tied:
        message = f"torchtune's {model.model_type} has no tied output head but in Llama 3.2"
        raise refusal("model.config.tie_word_embeddings", message, value=True)
    return {"llama": "llama3", "mistral": "mistral"}[model.model_type], arguments


def _lora(request: Request) -> dict[str, Any]:
    """Return the arguments of LoRA: what it adapts, its size, and whether the base is stored in NF4."""
    method = request.method
    assert isinstance(method, LoRA | QLoRA)
    names = _adapted(request)
    return {
        "lora_attn_modules": [tuned for name, tuned in ATTENTION.items() if name in names],
        "apply_lora_to_mlp": "gate_proj" in names,
        "lora_rank": method.r,
        "lora_alpha": 16,
        "lora_dropout": method.lora_dropout,
        "quantize_base": method.name == "qlora",
    }


def _adapted(request: Request) -> set[str]:
    """Return the names of the modules that the request adapts."""
    model = model_of(request.model)
    prepared = PreparedModel(model, request.method, request.training, request.device, request.stack)
    return {path.rpartition(".")[2] for path, module in model.paths if prepared.module_spec(path, module).added}
