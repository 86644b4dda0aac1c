"""An estimate's assumptions and warnings, in sentences."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.allocator.reserved_assumptions import (
    REPLAY,
    REPLAY_OF_STREAMS,
    REPLAY_OF_ZERO,
    RULE,
    RULE_OF_ZERO,
    SHARDED_RULE,
)
from calculator.bases import config_json
from calculator.devices.kernels import kernels_of
from calculator.estimation import expert_strides, image_requests, kernel_packages, task_sentences, updates_in_backward
from calculator.estimation.model_cache import returns_cache
from calculator.estimation.sample_lengths import BEFORE, SEEDS
from calculator.estimation.stated_base import stated
from calculator.families import forward_of
from calculator.inputs.sharding import STAGES, DDPConfig
from calculator.methods import QLoRA
from calculator.methods.prepared_model import PreparedModel
from calculator.resident.optimizers import OPTIMIZERS, UNCLIPPED
from calculator.sharding.fsdp import sentences as fsdp
from calculator.sharding.zero import sentences as zero
from calculator.stack.changes import OF_ROWS, OF_TRAINERS, older_behavior
from calculator.stack.sentences import differences, named
from calculator.stack.torch_releases import memory_remarks
from calculator.stack.trainers import untraced_trainer
from calculator.stack.verified import untraced
from calculator.trainers import trainer_of
from calculator.trainers.transformers.loop import Transformers
from calculator.trainers.trl import offloading

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from calculator.architecture.model import Model
    from calculator.devices import Fit
    from calculator.estimation.request import Request
    from calculator.resident.tensor import ResidentTensor
    from calculator.stack.change import ChangeName
    from calculator.training_step.zero.peaks import FlatPeaks

#: The sentence on the difference between peaks and traced training steps.
#: tests/calculator/estimation/test_traced_cases.py checks this sentence.
ACCURACY = (
    "Compared with more than 700 training steps of the real modules, traced on PyTorch's meta device, every peak was "
    "right to a millionth. Headroom has no GPU measurement of its own yet."
)

#: Source: transformers/integrations/moe.py, grouped_mm_experts_forward.
EXPERTS = "Experts run as grouped matrix products, as in transformers on CUDA."

#: Source: transformers/integrations/moe.py, grouped_mm_fallback.
EXPERTS_BY_GROUP = (
    "PyTorch has no grouped product for this release and GPU: it needs compute capability 8.0 and PyTorch 2.9, or 9.0 "
    "and 2.8. transformers multiplies one expert after the other, and computes the gradient of every expert's weights, "
    "even if they are frozen."
)

ROWS_OF_EXPERTS = (
    "Each token adds a row for each of its experts, so memory does not depend on which experts the router chooses. "
    "Every expert has a gradient from the first step on."
)

#: Source: ATen/autocast_mode.cpp, cached_cast; torch/utils/checkpoint.py enters autocast again.
AUTOCAST = (
    "Autocast is on in the forward pass only. It keeps a copy of every trained float32 weight from its first use to "
    "the end of that pass, and casts frozen weights at every use. A checkpointed layer is recomputed under autocast "
    "too. Autocast does not cover the grouped matrix products of experts: they run in their weights' dtype."
)

#: Source: torch.amp.GradScaler.
SCALER = (
    "float16 gradients underflow without torch.amp.GradScaler. The figures leave it out: it adds a few scalars and "
    "scales gradients in place."
)


def without_sharding(request: Request, model: Model) -> PreparedModel:
    """Return a request's model with its method applied, for sentences about its settings.

    A sharding does not change these settings.
    """
    device = request.device
    alone = device if device.sharding == "none" else replace(device, sharding="none")
    return PreparedModel(model, request.method, request.training, alone, request.stack)


#: The trainers whose steps on several GPUs are compared with traces.
TRACED_ON_SEVERAL = ("transformers", "trl-sft", "trl-dpo", "trl-kto", "trl-reward", "trl-orpo", "trl-grpo", "trl-rloo")


def _irrelevant(request: Request) -> frozenset[ChangeName]:
    """Return the changes of libraries that do not affect the request: of Trainer, and of rows of samples."""
    if not isinstance(trainer_of(request.training), Transformers):
        return OF_TRAINERS
    return frozenset() if request.training.flattened else OF_ROWS


def assumptions(request: Request, model: Model, prepared: PreparedModel) -> tuple[str, ...]:
    """Return the assumptions of the figures, except for those that depend on the figures.

    `prepared` is the model with its method applied, without a sharding.
    """
    trainer = trainer_of(request.training)
    lines = [
        f"The figures are for {named(request.stack)}, and for a step after the first, when optimizer states exist.",
        *differences(request.stack, model.model_type, left_out=_irrelevant(request)),
        *untraced(request.stack, model.model_type, request.method.name),
        *untraced_trainer(request.stack, request.training.trainer),
        _reserved(request),
        *memory_remarks(request.stack, request.device.alloc_conf),
        *_histories(request),
        *(() if trainer.facts.is_interval else (ACCURACY,)),
        *trainer.assumptions(prepared),
        *request.method.assumptions,
        *_optimizer(request),
        *task_sentences.assumptions(model, request.method, request.training.texts_per_example),
        *image_requests.assumptions(request, model),
        *_distributed(request, prepared),
    ]
    optimizer = OPTIMIZERS[request.training.optimizer]
    if optimizer.storage == "8bit" and not optimizer.projects and not trainer.facts.embeddings_in_32_bits:
        lines.append(
            "The states of embeddings are counted in 8 bits too; the Hugging Face Trainer keeps those in 32 bits."
        )
    if returns_cache(model, request.training, request.method, request.stack):
        lines.append("The config sets use_cache: keys and values are cached during the forward pass.")
    if request.training.activation_offloading and trainer.facts.offloads_saved_tensors:
        lines += offloading.sentences(prepared)
    casts_at_uses = request.training.autocast is not None and request.device.sharding in ("none", "ddp")
    if casts_at_uses and not trainer.facts.is_interval:
        lines.append(AUTOCAST)
    if request.training.autocast == "float16":
        lines.append(SCALER)
    if "experts" in model.kinds:
        kernels = kernels_of(request.device, request.stack, request.training.kernels)
        lines += [EXPERTS if kernels.grouped_mm else EXPERTS_BY_GROUP, ROWS_OF_EXPERTS]
        lines += expert_strides.remarks(request, model)
    if not request.length_given and request.task != "image_cls" and not model.reads_audio:
        tokens = request.training.sequence_length
        lines.append(f"No sequence_length is set: the figures are for {tokens:,} tokens.")
    lines += kernel_packages.notes(request, model)
    return tuple(lines)


def _reserved(request: Request) -> str:
    """Return how reserved memory is computed."""
    if request.device.sharding in STAGES:
        return REPLAY_OF_ZERO if request.reserved == "replay" else RULE_OF_ZERO
    if request.device.sharding == "fsdp":
        return REPLAY_OF_STREAMS if request.reserved == "replay" else SHARDED_RULE
    return REPLAY if request.reserved == "replay" else RULE


def verdict_assumptions(verdict: Fit | None) -> tuple[str, ...]:
    """Return the assumptions of the verdict."""
    return (verdict.assumption,) if verdict is not None and verdict.assumption else ()


def rank_assumptions(flat: FlatPeaks | None) -> tuple[str, ...]:
    """Return which rank the figures belong to, if ranks differ."""
    if flat is None:
        return ()
    rank, spread = flat.peak_rank.number, flat.spread
    others = (
        f"; the lowest peak of a rank is {spread:,} bytes lower" if spread else ", and those of all ranks are equal"
    )
    return (f"The figures are for rank {rank}, which has the highest peak{others}.",)


def _in_float32(request: Request) -> bool:
    """Return whether PEFT creates the adapters in float32."""
    facts = request.method.facts
    adds = not facts.trains_base and not facts.trains_copies
    return adds and (facts.always_float32 or request.training.adapter_dtype == "float32")


def _distributed(request: Request, prepared: PreparedModel) -> Iterator[str]:
    """Yield sentences on the memory that a sharding adds, and on what is not counted."""
    device, config = request.device, request.training.ddp or DDPConfig()
    if device.sharding in STAGES:
        quantized = request.method.facts.quantizes_base
        float32_adapters = _in_float32(request)
        yield from zero.assumptions(
            request.training, request.device, quantized=quantized, float32_adapters=float32_adapters
        )
    if device.sharding == "fsdp":
        yield from fsdp.assumptions(prepared)
    if device.sharding != "ddp":
        return
    views = ", and gradients are views of them" if config.gradient_as_bucket_view else ""
    yield (
        f"The figures are for each of {device.count:,} GPUs. DistributedDataParallel keeps buckets of at least"
        f" {config.bucket_cap_mb:,} MiB for all trained gradients during the whole run{views}. They are filled in the"
        " reverse order of the parameters; that of the backward pass can change each bucket's rounding to 512 bytes."
    )
    yield (
        "NCCL's buffers are outside the caching allocator and not counted; nor are the model's own buffers, which DDP"
        " broadcasts at the start of the forward pass."
    )


def _found_unused(request: Request) -> Iterator[str]:
    """Yield how a trainer's own choice of DDP's options differs from the request's (transformers/trainer.py)."""
    training, facts = request.training, request.method.facts
    zero = training.zero
    offloads = any(
        offload is not None and offload.device != "none" for offload in (zero.offload_optimizer, zero.offload_param)
    )
    traced = training.trainer in TRACED_ON_SEVERAL and not offloads
    if training.trainer is not None and request.device.sharding != "none" and not traced:
        yield (
            "The trainer's step on several GPUs is not traced; the figures join its loop on one GPU with what the"
            " sharding adds."
        )
    if training.trainer is None or request.device.sharding != "ddp":
        return
    wrapped = not facts.trains_base and request.method.name != "adapter"
    default = wrapped or not training.gradient_checkpointing
    given = training.ddp is not None and training.ddp.find_unused_parameters
    if default != given:
        yield (
            f"transformers' Trainer sets find_unused_parameters {str(default).lower()} for this run unless"
            f" ddp_find_unused_parameters is set; the figures are for {str(given).lower()}."
        )


def _optimizer(request: Request) -> Iterator[str]:
    """Yield the assumptions about the optimizer, and about its step in the backward pass."""
    training = request.training
    yield from OPTIMIZERS[training.optimizer].assumptions
    if training.optimizer_in_bwd and training.trainer is None:
        yield updates_in_backward.OWN_OPTIMIZERS
        if training.max_grad_norm:
            yield UNCLIPPED


def _histories(request: Request) -> Iterator[str]:
    """Yield sentences on how micro-batches are drawn, and on when the cache is emptied."""
    training, drawn = request.training, request.drawn
    replayed = request.reserved == "replay"
    if drawn is not None:
        padding = ", with padding" if training.padding else ""
        rows = "are rows of one length" if drawn.packing else "are padded to their longest sample"
        if training.flattened:
            rows = f"of {drawn.micro_batch_size:,} {'packed rows' if drawn.packing else 'samples'} are one row each"
        yield (
            f"Micro-batches {rows}. Peaks, components and phases are those of the longest"
            f" that can be drawn: {training.sequence_length:,} tokens{padding}."
        )
    if drawn is not None and replayed and len(drawn.sequence_lengths or ()) > 1:
        yield (
            f"Reserved memory and the verdict are the worst of {len(SEEDS)} replayed histories of drawn micro-batches."
            f" In each, at least {BEFORE} come before the longest, as in most epochs. A longer run may reserve more on"
            " a GPU that it does not fill; on one that it fills, cached blocks are freed."
        )
    if replayed and training.torch_empty_cache_steps is not None:
        yield f"The replay empties the cache, as torch_empty_cache_steps {training.torch_empty_cache_steps:,} does."


def warnings(request: Request, model: Model, prepared: PreparedModel) -> tuple[str, ...]:
    """Return risks that a user should know, except for those that depend on the figures."""
    lines: list[str] = []
    casts = request.device.sharding in STAGES and request.training.autocast is not None
    if request.method.facts.always_float32 and request.training.adapter_dtype == "model" and not casts:
        lines.append("PEFT keeps prefix and prompt parameters in float32 and ignores adapter_dtype; so do the figures.")
    if request.method.facts.trains_copies and request.training.added_dtype != request.training.dtype and not casts:
        lines.append("PEFT's copies keep the dtype of the base model and ignore adapter_dtype; so do the figures.")
    if request.method.quantizes_base:
        lines += [*not_quantized(model), *_cast_experts(request, model)]
    else:
        lines += config_json.loaded(stated(request.model), request.training.dtype)
    lines += request.method.warnings(model, request.training)
    if request.device.alloc_conf and request.reserved == "rule":
        lines.append(
            "The rule for reserved memory is for the allocator's default settings: device.alloc_conf changes nothing"
            " unless reserved is replay."
        )
    training, given = request.training, request.device.memory_bytes
    if given is not None and given < 1 << 20:
        lines.append(
            f"device.memory_bytes is a number of bytes, and {given:,} is less than 1 MiB: 24 GiB is {24 << 30}."
        )
    if request.reserved == "rule" and (training.sequence_lengths or training.torch_empty_cache_steps):
        lines.append(
            "The rule for reserved memory is for micro-batches of one length and a cache that is never emptied:"
            " sequence_lengths and torch_empty_cache_steps change nothing else unless reserved is replay."
        )
    if "math_kernel_for_float32_groups" not in older_behavior(request.stack):
        lines += _before_2_14(request, model)
    lines += trainer_of(request.training).warnings(prepared)
    lines += _found_unused(request)
    if request.device.sharding == "fsdp":
        lines += fsdp.warnings(prepared)
    if request.device.sharding in STAGES:
        quantized = request.method.facts.quantizes_base
        lines += zero.warnings(
            request.training,
            request.device,
            quantized=quantized,
            float32_adapters=_in_float32(request),
            adapts=request.method.facts.config_class is not None,
        )
    lines += _not_counted(model)
    positions = model.config.get("max_position_embeddings")
    if positions and request.training.sequence_length > positions and not model.reads_audio:
        lines.append(
            f"The sequence is longer than the model's {positions:,} positions. Quality may be poor beyond them."
        )
    return tuple(lines)


def _cast_experts(request: Request, model: Model) -> Iterator[str]:
    """Yield a sentence on what PEFT's preparation for k-bit training does to experts, which are not quantized.

    Source: peft/utils/other.py, prepare_model_for_kbit_training.
    """
    method, dtype = request.method, request.training.dtype
    casts = isinstance(method, QLoRA) and method.prepare_model_for_kbit_training and dtype != "float32"
    if casts and "experts" in model.kinds:
        yield (
            "prepare_model_for_kbit_training casts experts, which bitsandbytes leaves alone, to float32: they take"
            f" twice their bytes in {dtype}. Set it false to leave them as they are."
        )


def not_quantized(model: Model) -> list[str]:
    """Return the modules that bitsandbytes does not quantize."""
    lines = []
    if "experts" in model.kinds:
        lines.append("bitsandbytes does not quantize experts, which transformers 5 stores as fused 3-D parameters.")
    if any(module.kind == "linear" and not module.quantizable for _, module in model.running):
        lines.append("bitsandbytes does not quantize this family's own Linear class.")
    return lines


def without_gradient(model: Model, tensors: Iterable[ResidentTensor]) -> list[str]:
    """Return the number of trained parameters that get no gradient."""
    if not model.has_unused_parameters:
        return []
    count = sum(tensor.parameters * tensor.count for tensor in tensors if tensor.trained and not tensor.in_graph)
    if not count:
        return []
    source = " from text" if model.idle else ""
    return [f"{count:,} of the trained parameters get no gradient{source}: they are on the GPU but learn nothing."]


def _not_counted(model: Model) -> list[str]:
    """Return options of a config that the step leaves out."""
    lines = []
    if model.config.get("layerdrop"):
        lines.append("The config sets layerdrop: the figures are for a step that drops no layer.")
    return lines


def _before_2_14(request: Request, model: Model) -> list[str]:
    """Return a sentence on what the math kernel saves, if PyTorch before 2.14 chooses that kernel.

    Source: calculator/layers/math_attention.py.
    """
    training, config = request.training, model.config
    uncapped = "sdpa_without_softcapping" in older_behavior(request.stack, model.model_type)
    sdpa = training.attention == "sdpa" and (uncapped or forward_of(model).sdpa == "sdpa")
    heads, groups = config.get("num_attention_heads", 0), config.get("num_key_value_heads", 0)
    masked = training.padding or request.method.facts.masks_attention
    float32 = request.method.hidden_dtype(training) == "float32" and training.autocast is None
    if not sdpa or masked or not float32 or heads == groups:
        return []
    length = training.sequence_length + request.method.virtual_tokens
    scores = 4 * int(heads) * training.micro_batch_size * length**2
    where = "three times in the current layer" if training.gradient_checkpointing else "in every layer"
    return [
        (
            "PyTorch before 2.14 computes float32 attention with grouped heads in its math kernel, which saves the "
            f"scores: {scores / 2**30:.2f} GiB {where}. The figures are for 2.14's memory-efficient kernel."
        )
    ]
