"""torchtune's YAML, for the recipes lora_finetune_single_device and full_finetune_single_device.

Source: torchtune 0.6.1, recipes/configs (llama3_1/8B_lora_single_device.yaml, llama3_2/1B_full_single_device.yaml and
those of mistral, qwen2 and qwen2_5), and what the recipes of the same names in recipes/ read of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from app.interop.exports.part import Part, assembled, differs, method_part, settings_without_key
from app.interop.exports.planned import check_language_model
from calculator.common.errors import refusal
from calculator.methods import QLoRA
from calculator.methods.low_rank.method import LowRank
from calculator.methods.targeted.matching import target_names
from calculator.trainers.torchtune.check import MLP

if TYPE_CHECKING:
    from app.interop.exports.exported import Exported, NotExpressed
    from app.interop.exports.part import MethodParts
    from app.interop.exports.planned import Planned
    from calculator.inputs.training import Training

VERSIONS = "The figures are for torchtune 0.6.1. Later releases compute the loss differently."


class Builder(NamedTuple):
    """A function of torchtune that builds a model, the catalogue's model, and the checkpoint's model_type."""

    module: str
    name: str
    id: str
    model_type: str = ""


#: The builders of full models; those of LoRA begin with lora_, and of QLoRA with qlora_.
#: Source: torchtune/models/*/_model_builders.py.
BUILDERS = (
    Builder("llama2", "llama2_7b", "meta-llama/Llama-2-7b-hf", "LLAMA2"),
    Builder("llama2", "llama2_13b", "meta-llama/Llama-2-13b-hf", "LLAMA2"),
    Builder("llama2", "llama2_70b", "meta-llama/Llama-2-70b-hf", "LLAMA2"),
    Builder("llama3", "llama3_8b", "meta-llama/Meta-Llama-3-8B", "LLAMA3"),
    Builder("llama3", "llama3_70b", "meta-llama/Meta-Llama-3-70B", "LLAMA3"),
    Builder("llama3_1", "llama3_1_8b", "meta-llama/Llama-3.1-8B", "LLAMA3"),
    Builder("llama3_1", "llama3_1_70b", "meta-llama/Llama-3.1-70B", "LLAMA3"),
    Builder("llama3_1", "llama3_1_405b", "meta-llama/Llama-3.1-405B", "LLAMA3"),
    Builder("llama3_2", "llama3_2_1b", "meta-llama/Llama-3.2-1B", "LLAMA3_2"),
    Builder("llama3_2", "llama3_2_3b", "meta-llama/Llama-3.2-3B", "LLAMA3_2"),
    Builder("mistral", "mistral_7b", "mistralai/Mistral-7B-v0.1", "MISTRAL"),
    Builder("qwen2", "qwen2_0_5b", "Qwen/Qwen2-0.5B", "QWEN2"),
    Builder("qwen2", "qwen2_1_5b", "Qwen/Qwen2-1.5B", "QWEN2"),
    Builder("qwen2", "qwen2_7b", "Qwen/Qwen2-7B", "QWEN2"),
    Builder("qwen2_5", "qwen2_5_0_5b", "Qwen/Qwen2.5-0.5B", "QWEN2"),
    Builder("qwen2_5", "qwen2_5_1_5b_base", "Qwen/Qwen2.5-1.5B", "QWEN2"),
    Builder("qwen2_5", "qwen2_5_3b", "Qwen/Qwen2.5-3B", "QWEN2"),
    Builder("qwen2_5", "qwen2_5_7b_base", "Qwen/Qwen2.5-7B", "QWEN2"),
    Builder("qwen2_5", "qwen2_5_14b_base", "Qwen/Qwen2.5-14B", "QWEN2"),
    Builder("qwen2_5", "qwen2_5_32b_base", "Qwen/Qwen2.5-32B", "QWEN2"),
    Builder("qwen2_5", "qwen2_5_72b_base", "Qwen/Qwen2.5-72B", "QWEN2"),
)

#: The component of each tokenizer, and its files, by the module of the builder.
TOKENIZERS = {
    "llama2": ("torchtune.models.llama2.llama2_tokenizer", {"path": "tokenizer.model"}),
    "llama3": ("torchtune.models.llama3.llama3_tokenizer", {"path": "original/tokenizer.model"}),
    "mistral": ("torchtune.models.mistral.mistral_tokenizer", {"path": "tokenizer.model"}),
    "qwen2": ("torchtune.models.qwen2.qwen2_tokenizer", {"path": "vocab.json", "merges_file": "merges.txt"}),
    "qwen2_5": ("torchtune.models.qwen2_5.qwen2_5_tokenizer", {"path": "vocab.json", "merges_file": "merges.txt"}),
}

#: The component of each optimizer, and what else selects it.
OPTIMIZERS: dict[str, tuple[str, dict[str, bool]]] = {
    "adamw_torch": ("torch.optim.AdamW", {}),
    "adamw_torch_fused": ("torch.optim.AdamW", {"fused": True}),
    "adamw_bnb_8bit": ("bitsandbytes.optim.AdamW8bit", {}),
    "paged_adamw_8bit": ("bitsandbytes.optim.PagedAdamW8bit", {}),
    "paged_adamw_32bit": ("bitsandbytes.optim.PagedAdamW32bit", {}),
    "lion_8bit": ("bitsandbytes.optim.Lion8bit", {}),
    "lion_32bit": ("bitsandbytes.optim.Lion32bit", {}),
    "paged_lion_8bit": ("bitsandbytes.optim.PagedLion8bit", {}),
    "paged_lion_32bit": ("bitsandbytes.optim.PagedLion32bit", {}),
    "sgd": ("torch.optim.SGD", {}),
    "adagrad": ("torch.optim.Adagrad", {}),
    "rmsprop": ("torch.optim.RMSprop", {}),
}

#: The names of dtypes.
DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}

#: The loss that the trainer is modeled with.
LOSS = "torchtune.modules.loss.CEWithChunkedOutputLoss"

#: torchtune's name of each projection of attention. Source: torchtune/modules/peft/_utils.py, LORA_ATTN_MODULES.
PROJECTIONS = {"q_proj": "q_proj", "k_proj": "k_proj", "v_proj": "v_proj", "o_proj": "output_proj"}

_OUTPUT = "./trained"


def exported(planned: Planned) -> Exported:
    """Return the YAML.

    Raises:
        PlanError: if the request is not of torchtune's step, or torchtune has no builder of the model.
    """
    check_language_model(planned.request, "torchtune")
    training = planned.request.training
    if training.trainer != "torchtune":
        message = "torchtune runs its own step: set training.trainer to torchtune, or use another format"
        raise refusal("training.trainer", message, training.trainer)
    builder = _builder(planned)
    method = method_part(planned, "torchtune", METHOD_PARTS)
    recipe = f"{'full' if planned.request.method.name == 'full' else 'lora'}_finetune_single_device"
    run = (
        f"Run it with: tune run {recipe} --config torchtune.yaml",
        f"First: tune download {builder.id} --output-dir {_folder(builder)}",
        "List the checkpoint's own files in checkpoint_files, and name your data.",
        VERSIONS,
    )
    parts = (method, _checkpoint(planned, builder), _data(), _training(planned))
    return assembled(planned, "torchtune.yaml", run, parts)


def _builder(planned: Planned) -> Builder:
    """Return the builder of the request's model."""
    builder = next((known for known in BUILDERS if known.id == planned.model.id), None)
    if builder is None:
        message = f"torchtune has a builder for {', '.join(known.id for known in BUILDERS)}: use one of these"
        raise refusal("model", message, planned.model.id)
    return builder


def _folder(builder: Builder) -> str:
    return f"./{builder.id.rpartition('/')[2]}"


def _full(planned: Planned) -> Part:
    builder = _builder(planned)
    return Part(heading="Model", keys={"model": {"_component_": f"torchtune.models.{builder.module}.{builder.name}"}})


def _low_rank(planned: Planned) -> Part:
    method, builder = planned.request.method, _builder(planned)
    assert isinstance(method, LowRank)
    names = target_names(method, planned.model)
    in_4_bits, has_builder = isinstance(method, QLoRA), not builder.module.startswith("qwen2")
    prefix = "qlora" if in_4_bits and has_builder else "lora"
    keys = {
        "_component_": f"torchtune.models.{builder.module}.{prefix}_{builder.name}",
        "lora_attn_modules": [module for name, module in PROJECTIONS.items() if name in names],
        "apply_lora_to_mlp": set(MLP) <= {*names},
        "apply_lora_to_output": False,
        "lora_rank": method.r,
        "lora_alpha": method.lora_alpha,
        "lora_dropout": method.lora_dropout,
        **({"quantize_base": True} if in_4_bits and not has_builder else {}),
    }
    lacks = ("use_rslora", "init_lora_weights", "layers_to_transform", "layers_pattern", "alpha_pattern", "use_bdlora")
    return Part(heading="Model", keys={"model": keys}, not_expressed=settings_without_key(method, lacks))


#: The methods of the recipes.
METHOD_PARTS: MethodParts = {"full": _full, "lora": _low_rank, "qlora": _low_rank}


def _checkpoint(planned: Planned, builder: Builder) -> Part:
    folder = _folder(builder)
    module = "llama3" if builder.module.startswith("llama3") else builder.module
    component, files = TOKENIZERS[module]
    return Part(
        heading="Checkpoint, and the length to which samples are cut",
        keys={
            "output_dir": _OUTPUT,
            "tokenizer": {
                "_component_": component,
                **{key: f"{folder}/{file}" for key, file in files.items()},
                "max_seq_len": planned.request.training.sequence_length,
            },
            "checkpointer": {
                "_component_": "torchtune.training.FullModelHFCheckpointer",
                "checkpoint_dir": folder,
                "checkpoint_files": ["model.safetensors"],
                "recipe_checkpoint": None,
                "output_dir": _OUTPUT,
                "model_type": builder.model_type,
            },
            "resume_from_checkpoint": False,
        },
    )


def _data() -> Part:
    return Part(
        heading="Data: padded to the longest sample of a batch",
        keys={
            "dataset": {"_component_": "torchtune.datasets.alpaca_cleaned_dataset", "packed": False},
            "seed": None,
            "shuffle": True,
        },
    )


def _training(planned: Planned) -> Part:
    training = planned.request.training
    optimizer, not_expressed = _optimizer(training)
    full = planned.request.method.name == "full"
    warmup = "torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup"
    return Part(
        heading="Training",
        keys={
            "batch_size": training.micro_batch_size,
            "gradient_accumulation_steps": training.gradient_accumulation_steps,
            "epochs": 1,
            "max_steps_per_epoch": None,
            "optimizer": optimizer,
            **(
                {"optimizer_in_bwd": training.optimizer_in_bwd}
                if full
                else {"lr_scheduler": {"_component_": warmup, "num_warmup_steps": 100}}
            ),
            "loss": {"_component_": LOSS},
            "clip_grad_norm": training.max_grad_norm,
            "compile": False,
            "device": "cuda",
            "dtype": next(torchtune_name for torchtune_name, name in DTYPES.items() if name == training.dtype),
            "enable_activation_checkpointing": training.gradient_checkpointing,
            "enable_activation_offloading": False,
            "metric_logger": {"_component_": "torchtune.training.metric_logging.DiskLogger", "log_dir": _OUTPUT},
            "log_every_n_steps": 1,
            "log_peak_memory_stats": True,
        },
        not_expressed=not_expressed,
    )


def _optimizer(training: Training) -> tuple[dict[str, Any], tuple[NotExpressed, ...]]:
    """Return the keys of the optimizer; those of AdamW if torchtune's file can name no such class."""
    name = {"adamw_8bit": "adamw_bnb_8bit"}.get(training.optimizer, training.optimizer)
    component, options = OPTIMIZERS.get(name, OPTIMIZERS["adamw_torch_fused"])
    keys = {"_component_": component, **options, "lr": 0.0003}
    if name in OPTIMIZERS:
        return keys, ()
    why = "the file names PyTorch's fused AdamW: torchtune has no such optimizer"
    return keys, (differs("training.optimizer", training.optimizer, why),)
