"""Checks for runs that torchtune refuses, and for runs that are not modeled."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

from calculator.common.errors import Problem
from calculator.methods.full.method import Full
from calculator.resident.torchao_nf4 import MULTIPLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.trainers.subject import Subject

#: The families whose modules in torchtune are modeled: Llama 2 to 3.2, Mistral, and Qwen 2 and 2.5.
FAMILIES = ("llama", "mistral", "qwen2")

#: For each family, the scalings of the rotary embedding that torchtune supports, if it supports any.
SCALINGS = {"llama": ("default", "llama3")}

#: The modules that LoRA adapts all together or not at all (apply_lora_to_mlp).
MLP = ("gate_proj", "up_proj", "down_proj")

#: The values of LoRA's settings in torchtune's recipe.
OF_METHOD = {
    "use_dora": False,
    "bias": "none",
    "modules_to_save": None,
    "lora_bias": False,
    "rank_pattern": {},
    "layer_replication": None,
    "trainable_token_indices": None,
}

#: The values of QLoRA's settings that torchao's NF4 supports, and why it supports no others. Source: to_nf4.
OF_NF4: dict[str, tuple[object, str]] = {
    "quant_type": ("nf4", "torchtune stores weights in torchao's NF4: use nf4"),
    "double_quant": (True, "torchao's NF4 quantizes the block constants too: use true"),
    "blocksize": (64, "torchao's NF4 has blocks of 64 in torchtune: use 64"),
    "quant_storage": ("uint8", "torchao's NF4 is stored in bytes: use uint8"),
    "prepare_model_for_kbit_training": (False, "torchtune prepares no model for k-bit training: use false"),
}

#: The values of settings that the recipes support, and why they support no others.
OF_TRAINING: dict[str, tuple[object, str]] = {
    "dtype": ("bfloat16", "torchtune is modeled for bfloat16: use that"),
    "autocast": (None, "torchtune trains without autocast: use null"),
    "attention": ("sdpa", "torchtune calls PyTorch's attention: use sdpa"),
    "padding": (False, "torchtune masks no padding unless sequences are packed: use false"),
    "packing": (False, "packed sequences are not modeled for torchtune yet: use false"),
    "padding_free": (False, "padding-free rows are not modeled for torchtune: use false"),
    "use_liger_kernel": (False, "torchtune has modules of its own: use false"),
    "loss_type": (None, "torchtune is modeled with CEWithChunkedOutputLoss: leave it out"),
    "completion_tokens": (None, "the memory of torchtune's loss does not depend on it: leave it out"),
    "sequence_lengths": (None, "sample lengths are not modeled for torchtune: give only sequence_length"),
    "loraplus_lr_ratio": (None, "torchtune has no LoRA+: leave it out"),
    "precompute_ref_log_probs": (False, "these recipes have no reference: use false"),
    "beta": (None, "these recipes have no reference: leave it out"),
    "num_generations": (None, "these recipes generate nothing: leave it out"),
    "max_completion_length": (None, "these recipes generate nothing: leave it out"),
    "use_vllm": (False, "these recipes generate nothing: use false"),
    "gradient_checkpointing_kwargs": (None, "torchtune's checkpointing is not re-entrant: leave it out"),
}

_values, _SUPPORTED = attrgetter(*OF_TRAINING), tuple([value for value, _ in OF_TRAINING.values()])


def problems(prepared: Subject) -> Iterator[Problem]:
    """Yield the problems of a run with torchtune."""
    yield from _model(prepared)
    yield from _method(prepared)
    yield from _in_backward(prepared)
    values = _values(prepared.training)
    if values == _SUPPORTED:
        return
    for given, (name, (value, message)) in zip(values, OF_TRAINING.items(), strict=True):
        if given != value:
            yield Problem(loc=f"training.{name}", msg=message, input=given)


def _in_backward(prepared: Subject) -> Iterator[Problem]:
    """Yield settings that the recipe refuses with the optimizer's step in the backward pass."""
    training = prepared.training
    if not training.optimizer_in_bwd:
        return
    if prepared.method.name != "full":
        message = f"torchtune's recipe for {prepared.method.name} has no optimizer_in_bwd: use false, or full"
        yield Problem(loc="training.optimizer_in_bwd", msg=message, input=True)
    if training.gradient_accumulation_steps > 1:
        message = "optimizer_in_bwd needs 1: torchtune refuses to accumulate gradients that it frees"
        loc = "training.gradient_accumulation_steps"
        yield Problem(loc=loc, msg=message, input=training.gradient_accumulation_steps)
    if training.max_grad_norm is not None:
        message = "optimizer_in_bwd needs null: torchtune clips no gradients that it frees"
        yield Problem(loc="training.max_grad_norm", msg=message, input=training.max_grad_norm)
    if training.optimizer == "adafactor":
        message = "optimizer_in_bwd is not modeled with it: use another optimizer, or false"
        yield Problem(loc="training.optimizer", msg=message, input=training.optimizer)


def _model(prepared: Subject) -> Iterator[Problem]:
    model, config = prepared.model, prepared.model.config
    if model.model_type not in FAMILIES:
        message = (
            f"torchtune is modeled for {', '.join(FAMILIES)}: use the reference step (null) for {model.model_type}"
        )
        yield Problem(loc="training.trainer", msg=message, input="torchtune")
        return
    heads = int(config["num_attention_heads"])
    if int(config["head_dim"]) * heads != int(config["hidden_size"]):
        message = "torchtune's heads are hidden_size / num_attention_heads wide: use null"
        yield Problem(loc="model.config.head_dim", msg=message, input=config["head_dim"])
    if int(config["head_dim"]) % 8:
        message = "heads of torchtune are modeled for widths that are multiples of 8: use null as the trainer"
        yield Problem(loc="model.config.head_dim", msg=message, input=config["head_dim"])
    scaling = config.get("rope_type", "default")
    accepted = SCALINGS.get(model.model_type, ("default",))
    if scaling not in accepted:
        message = f"torchtune's {model.model_type} has {' or '.join(accepted)} positions: use null as the trainer"
        yield Problem(loc="model.config.rope_scaling", msg=message, input=scaling)
    if model.tied and model.model_type != "qwen2" and scaling != "llama3":
        message = "torchtune ties the output head of Llama 3.2 and Qwen 2 only: use null as the trainer"
        yield Problem(loc="model.config.tie_word_embeddings", msg=message, input=True)
    for name, value in (("attention_bias", False), ("mlp_bias", False), ("hidden_act", "silu")):
        if config.get(name, value) != value:
            message = f"torchtune's modules have {name} {str(value).lower()} only: use null as the trainer"
            yield Problem(loc=f"model.config.{name}", msg=message, input=config[name])


def _method(prepared: Subject) -> Iterator[Problem]:
    method = prepared.method
    if method.name not in ("full", "lora", "qlora"):
        message = f"torchtune is modeled for full, lora and qlora; {method.name} is not: use one of them"
        yield Problem(loc="method.name", msg=message, input=method.name)
        return
    if method.name == "qlora":
        yield from _in_4_bits(prepared)
    elif method.base_quantization(prepared.training) is not None:
        message = f"torchtune has no base of {method.title}: use LoRA in bfloat16"
        yield Problem(loc="method.name", msg=message, input=method.name)
    if isinstance(method, Full):
        if method.trains_part and not method.trains_active_layers:
            message = "torchtune's recipe trains every weight: leave it out, or use trainer transformers"
            yield Problem(loc="method.unfrozen_parameters", msg=message, input=list(method.unfrozen_parameters or ()))
        return
    if prepared.training.optimizer == "adagrad":
        message = (
            "torchtune gives the optimizer all parameters, and Adagrad makes states of frozen ones too, which is not"
            " modeled: use another optimizer"
        )
        yield Problem(loc="training.optimizer", msg=message, input="adagrad")
    if prepared.training.adapter_dtype != "model":
        message = "torchtune's adapters have the model's dtype: use model"
        yield Problem(loc="training.adapter_dtype", msg=message, input=prepared.training.adapter_dtype)
    for name, value in OF_METHOD.items():
        given = getattr(method, name, value)
        if given not in (value, ()):
            message = f"{name} is not modeled with torchtune: leave it out, or use another trainer"
            yield Problem(loc=f"method.{name}", msg=message, input=given)
    yield from _targets(prepared)


def _in_4_bits(prepared: Subject) -> Iterator[Problem]:
    """Yield settings of QLoRA that torchao's NF4 does not support, and matrices that it cannot divide into blocks."""
    for name, (value, message) in OF_NF4.items():
        given = getattr(prepared.method, name)
        if given != value:
            yield Problem(loc=f"method.{name}", msg=message, input=given)
    for path, module in prepared.model.paths:
        stored = prepared.module_spec(path, module).quantization is not None
        if stored and module.weight.elements % MULTIPLE:
            message = (
                f"torchao's NF4 needs matrices of a multiple of {MULTIPLE:,} weights, and {path} has"
                f" {module.weight.elements:,}: use lora"
            )
            yield Problem(loc="method.name", msg=message, input="qlora")
            return


def _targets(prepared: Subject) -> Iterator[Problem]:
    adapted = {path for path, module in prepared.model.paths if prepared.module_spec(path, module).added}
    names = {path.rpartition(".")[2] for path in adapted}
    outer = {module.name for module in prepared.model.outer.values()} & adapted
    if outer or 0 < len(names & set(MLP)) < len(MLP):
        message = (
            "torchtune adapts the three projections of the MLP together (apply_lora_to_mlp), and its output head is not"
            f" modeled: use projections of attention, with {', '.join(MLP)} or without"
        )
        yield Problem(loc="method.target_modules", msg=message, input=sorted(names))
