"""Features of other tools that are not modeled, and that change the memory of a step: the figures are for another run.

Sources: axolotl's keys in src/axolotl/utils/schemas and src/axolotl/integrations/{liger,cut_cross_entropy}/args.py;
LLaMA-Factory's in src/llamafactory/hparams, TrainingArguments of transformers, and torchtune's in recipes/configs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.http.problems import shortened

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.interop.imports.keys import Keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """A feature, the keys that switch it on, and what it changes."""

    #: Keys by name; a name that ends with _ matches every key that starts with it.
    keys: tuple[str, ...]
    #: The effect of the feature on memory.
    effect: str
    #: The run that the figures are for.
    modeled: str
    #: A part of the names of the axolotl plugins that switch it on.
    plugin: str | None = None
    #: Whether the keys are numbers of GPUs, of which 1 switches nothing on.
    counts: bool = False
    #: Whether the format's reader takes the keys, because it models some of their values.
    reads_itself: bool = False


LIGER_EFFECT = "Liger kernels save fewer activations, and with the fused loss no logits."
TRANSFORMERS_LAYERS = "one with transformers' own layers and loss"
_COMPILED = Feature(
    keys=("torch_compile", "torch_compile_"),
    effect="torch.compile fuses operations and saves other tensors for the backward pass.",
    modeled="one in eager mode",
)

_FP8 = "FP8 training casts weights and activations to 8 bits."
_OTHER_LOSS = "This loss weighs the tokens by their logits, of which it makes copies."

_OF_IMAGES = "The vision tower runs for each image of the dataset, and their tokens count in a sequence."

#: TRL's offloading of activations where it is not modeled.
OFFLOADING = Feature(
    keys=("activation_offloading",),
    effect="TRL moves every saved tensor of 1 kB or more to pinned host memory, on a CUDA stream of its own.",
    modeled="one that keeps them on the GPU (offloading is modeled too, with use_reentrant false)",
    reads_itself=True,
)

#: Those of TrainingArguments, and of TRL.
_TRL = (_COMPILED, OFFLOADING)

#: vLLM where it is not modeled: in Unsloth's process, and with trainers that generate nothing.
VLLM = Feature(
    keys=("use_vllm", "fast_inference"),
    effect="vLLM reserves memory of its own.",
    modeled="one without it",
)

#: The features of each format.
FEATURES: dict[str, tuple[Feature, ...]] = {
    "axolotl": (
        Feature(
            keys=("tensor_parallel_size", "context_parallel_size", "sequence_parallel_degree", "expert_parallel_size"),
            effect="These divide weights, sequences or experts among the GPUs.",
            modeled="one that shards only what FSDP or ZeRO shards",
            counts=True,
        ),
        Feature(
            keys=("dp_replicate_size",),
            effect="Each group of GPUs has the whole model.",
            modeled="one that shards the model over all GPUs",
            counts=True,
        ),
        Feature(keys=("liger_",), plugin="liger", effect=LIGER_EFFECT, modeled=TRANSFORMERS_LAYERS, reads_itself=True),
        Feature(
            keys=("cut_cross_entropy", "cut_cross_entropy_", "chunked_cross_entropy", "chunked_cross_entropy_"),
            plugin="cut_cross_entropy",
            effect="This loss never materializes all of the logits.",
            modeled="one that keeps the logits and their gradient",
            reads_itself=True,
        ),
        Feature(
            keys=("unsloth_", "flash_attn_cross_entropy", "flash_attn_fuse_mlp", "use_kernels"),
            effect="Fused kernels save fewer activations or logits.",
            modeled=TRANSFORMERS_LAYERS,
        ),
        Feature(
            keys=("activation_offloading", "layer_offloading"),
            effect="Offloading moves activations or weights to the CPU; with an adapter, by axolotl's own manager.",
            modeled="one that keeps them on the GPU",
        ),
        Feature(
            keys=("processor_type",),
            effect=_OF_IMAGES,
            modeled="one with text only",
        ),
        Feature(
            keys=("quantize_moe_experts",),
            effect="axolotl keeps the experts' fused weights in 4 or 8 bits.",
            modeled="one with experts as the adapter's method keeps them",
        ),
        Feature(
            keys=("qat",),
            effect="Quantization-aware training keeps the quantized copies of weights and inputs.",
            modeled="one without them",
        ),
        Feature(
            keys=("fp8", "fp8_"),
            effect=_FP8,
            modeled="one with 16-bit or 32-bit tensors",
        ),
        Feature(
            keys=("relora", "relora_", "jagged_restart_"),
            effect="ReLoRA merges the adapter and prunes the optimizer's states at each restart.",
            modeled="one that trains a single adapter",
        ),
        Feature(
            keys=("use_eaft", "eaft_"),
            effect=_OTHER_LOSS,
            modeled="one with the loss of the next token",
        ),
        Feature(
            keys=("ebft",),
            effect="Energy-based fine-tuning generates completions, which a frozen copy of the model reads.",
            modeled="one with the loss of the next token",
        ),
        Feature(
            keys=("use_dsv4_kernels", "use_glm_dsa_kernels", "use_scattermoe", "use_sonicmoe"),
            plugin="integrations.kernels",
            effect="Other kernels run the experts or the attention, and save other tensors.",
            modeled=TRANSFORMERS_LAYERS,
        ),
        Feature(
            keys=("expert_parallel_",),
            plugin="integrations.expert_parallel",
            effect="It divides the experts among the GPUs.",
            modeled="one that shards only what FSDP or ZeRO shards",
        ),
        Feature(
            keys=("llmcompressor",),
            plugin="integrations.llm_compressor",
            effect="It keeps a mask of pruned weights.",
            modeled="one without pruning",
        ),
        Feature(
            keys=("tiled_mlp", "tiled_mlp_"),
            effect="A tiled MLP computes parts of the sequence one after the other, with smaller temporary tensors.",
            modeled="one that computes the whole sequence at once",
        ),
        _COMPILED,
    ),
    "llama-factory": (
        Feature(
            keys=("use_unsloth", "use_unsloth_gc", "use_v1_kernels"),
            effect="Fused kernels save fewer activations or logits, and Unsloth's checkpointing offloads to the CPU.",
            modeled="one with transformers' own layers, loss and checkpointing",
        ),
        Feature(
            keys=("use_megatron_bridge", "use_mca", "use_hyper_parallel", "use_kt"),
            effect="Another engine trains the model, and can divide it among the GPUs or keep experts on the CPU.",
            modeled="one with transformers' Trainer",
        ),
        Feature(
            keys=(
                *("tensor_model_parallel_size", "pipeline_model_parallel_size", "expert_model_parallel_size"),
                *("context_parallel_size", "virtual_pipeline_model_parallel_size"),
            ),
            effect="Megatron splits layers, weights or sequences over the GPUs.",
            modeled="one with transformers' Trainer",
            counts=True,
        ),
        Feature(
            keys=(
                *("use_distributed_optimizer", "overlap_param_gather", "overlap_grad_reduce", "sequence_parallel"),
                *("bias_activation_fusion", "apply_rope_fusion", "recompute_granularity", "moe_grouped_gemm"),
                *("moe_token_dispatcher_type", "mixed_precision"),
            ),
            effect="Megatron has layers, an optimizer and checkpointing of its own.",
            modeled="one with transformers' Trainer",
        ),
        Feature(
            keys=("use_asft_loss", "asft_alpha"),
            effect="This loss compares the model with a frozen copy of it, which is in memory too.",
            modeled="one with the loss of the next token",
        ),
        Feature(
            keys=("use_dft_loss", "use_eaft_loss", "eaft_alpha"),
            effect=_OTHER_LOSS,
            modeled="one with the loss of the next token",
        ),
        Feature(
            keys=("mixture_of_depths",),
            effect="Mixture of depths lets some layers process some of the tokens.",
            modeled="one in which each layer processes all tokens",
        ),
        Feature(
            keys=("kt_",), effect="KTransformers keeps experts on the CPU.", modeled="one with all weights on GPUs"
        ),
        Feature(
            keys=("image_max_pixels", "image_min_pixels", "video_max_pixels", "video_min_pixels", "video_"),
            effect=_OF_IMAGES,
            modeled="one with text only (images can be stated as training.images)",
        ),
        Feature(
            keys=("fp8", "fp8_"),
            effect=_FP8,
            modeled="one with 16-bit or 32-bit tensors",
        ),
        _COMPILED,
        Feature(
            keys=("neat_packing",),
            effect="Packing puts several examples into one row, with a block-diagonal attention mask.",
            modeled="one with full sequences of cutoff_len tokens and no mask",
        ),
    ),
    "torchtune": (
        Feature(keys=("compile",), effect=_COMPILED.effect, modeled=_COMPILED.modeled),
        Feature(
            keys=("enable_activation_offloading",),
            effect="Offloading moves activations to the CPU.",
            modeled="one that keeps them on the GPU",
        ),
        Feature(
            keys=("custom_sharded_layers", "fsdp_", "tensor_parallel_", "data_parallel_", "context_parallel_dim"),
            effect="The distributed recipes divide weights, gradients and optimizer states among the GPUs.",
            modeled="one of the recipe for a single device",
        ),
        Feature(
            keys=("quantizer", "fake_quant_after_n_steps", "enable_fp8_training", "fp8_recipe_name"),
            effect="Quantization-aware and FP8 training run other linear layers.",
            modeled="one in 16 bits",
        ),
        Feature(
            keys=("teacher_", "kd_", "ref_", "reward_", "num_classes", "ppo_", "grpo_"),
            effect="These recipes run a second model, or another loss.",
            modeled="one that fine-tunes a single model",
        ),
    ),
    "trl": (
        *_TRL,
        Feature(keys=("script",), effect=_OF_IMAGES, modeled="one with text only"),
    ),
    "script": (
        *_TRL,
        Feature(
            keys=("offload_embedding",),
            effect="Unsloth keeps the embeddings in host memory.",
            modeled="one with the embeddings on the GPU",
        ),
        Feature(
            keys=("offload_layers", "checkpoint_skip_layers"),
            effect="Unsloth keeps layers in host memory, or does not checkpoint them.",
            modeled="one with all layers on the GPU, and checkpointed alike",
        ),
        Feature(
            keys=("load_in_fp8", "qat_scheme"),
            effect="Linear layers with weights in 8 bits, or quantization-aware ones, keep other tensors.",
            modeled="one without them",
        ),
    ),
    "peft": (),
    "accelerate": (),
    "deepspeed": (),
}


def warn(keys: Keys, format: str) -> None:  # noqa: A002  the API's word
    """Take the keys of features that are not modeled, with a warning for each feature that is switched on."""
    for feature in FEATURES[format]:
        if not feature.reads_itself:
            warn_of(keys, feature)


def warn_about(keys: Keys, format: str, plugin: str) -> None:  # noqa: A002  the API's word
    """Take the keys of the feature with a plugin, with a warning if it is switched on."""
    for feature in FEATURES[format]:
        if feature.plugin == plugin:
            warn_of(keys, feature)


def warn_of(keys: Keys, feature: Feature) -> None:
    """Take the keys of a feature, with a warning if it is switched on."""
    settings = [*_settings(keys, feature), *_plugins(keys, feature)]
    if settings:
        keys.warn(", ".join(settings), feature.effect, feature.modeled)


def _settings(keys: Keys, feature: Feature) -> Iterator[str]:
    for key in [key for key in keys.left if _matches(key, feature)]:
        value = keys.take(key)
        if value and not (feature.counts and value in (1, "1")):
            yield f"{key}: {text_of(value)}"


def _matches(key: str, feature: Feature) -> bool:
    return any(key.startswith(name) if name.endswith("_") else key == name for name in feature.keys)


def _plugins(keys: Keys, feature: Feature) -> Iterator[str]:
    """Take the feature's plugins out of the list of plugins."""
    plugins = keys.left.get("plugins")
    if feature.plugin is None or not plugins:
        return
    names = plugins if isinstance(plugins, list) else [plugins]
    mine = [name for name in names if isinstance(name, str) and feature.plugin in name]
    if mine:
        keys.left["plugins"] = [name for name in names if name not in mine]
        yield f"plugins: {text_of(mine)}"


def text_of(value: Any) -> str:
    """Return a value of a file as short text."""
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return str(shortened(", ".join(value)))
    return str(shortened(value if isinstance(value, str) else json.dumps(value)))
