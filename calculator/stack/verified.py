"""The models for which older releases of transformers were verified, and the requests that are refused for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import Problem
from calculator.inputs.stack import DEFAULT_STACK
from calculator.stack.changes import older_behavior
from calculator.stack.models import FIRST, TRACED
from calculator.stack.releases import dotted, is_older, listed, release
from calculator.stack.trainers import OLDER_TRAINERS, knows_trainer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from calculator.architecture.model import Model
    from calculator.common.dtype import DType
    from calculator.inputs.stack import StackVersions
    from calculator.inputs.training import Training
    from calculator.stack.releases import Release

#: The methods of the traces.
TRACED_METHODS = ("full", "lora", "qlora")

#: The first release of transformers whose passes of `generate` were verified, and the releases whose passes were
#: traced.
FIRST_PASSES: Release = (4, 48)
TRACED_PASSES: dict[str, tuple[Release, ...]] = {
    "llama": ((4, 48), (4, 53), (4, 55), (4, 56), (4, 57), (5, 0), (5, 8), (5, 16)),
    "mistral": ((4, 57),),
    "qwen2": ((4, 48),),
}

#: The release from which on GPT-BigCode runs the shared attention and no code of its own.
SHARED_BIGCODE: Release = (4, 54)

#: The releases that checkpoint no layer of a model type: the first one, and the next one that does.
#: Source: transformers 4.51.3, models/starcoder2/modeling_starcoder2.py (Starcoder2Model.forward); 4.57.6,
#: models/gpt_bigcode/modeling_gpt_bigcode.py (GPTBigCodeBlock, no GradientCheckpointingLayer).
WITHOUT_CHECKPOINTS: dict[str, tuple[Release, Release]] = {
    "gpt_bigcode": (SHARED_BIGCODE, (5, 0)),
    "starcoder2": ((4, 48), (4, 52)),
}

#: The first release in which a model without a given cache returns a Cache. Before, it returns tuples.
#: Source: transformers 4.47.1, models/llama/modeling_llama.py, LlamaModel.forward (return_legacy_cache).
RETURNS_CACHES: Release = (4, 48)

#: The same for model types with code of their own. Source: transformers 4.55.4, models/gpt2/modeling_gpt2.py,
#: GPT2Model.forward (return_legacy_cache).
RETURNS_CACHES_LATER: dict[str, Release] = {"gpt2": (4, 56), "gpt_bigcode": SHARED_BIGCODE}

#: The first release whose passes of `generate` are known, for model types with code of their own before it, or that
#: were not compared there. From 5.21 on, Gemma 2 runs the shared cache without sdpa's kernels.
#: Source: transformers 5.21, models/gemma2/modeling_gemma2.py (_supports_sdpa).
SHARED_PASSES: dict[str, Release] = {
    "gemma2": (5, 21),
    "gemma3_text": (4, 53),
    "gpt2": (4, 57),
    "gpt_bigcode": SHARED_BIGCODE,
    "gpt_neox": (4, 53),
    "starcoder2": (4, 53),
}

#: The first release in which the cache of a layer with a sliding window keeps no more tokens than the window.
WINDOWED_CACHES: Release = (4, 56)

#: The release whose flash_attention_2 casts float32 queries only if the values are in float32 too.
FLOAT32_QUERIES: Release = (4, 48)

#: The first release whose Trainer fetches all micro-batches of a step before it runs them.
#: Source: transformers 4.46.0, trainer.py, Trainer.get_batch_samples.
FETCHES_STEPS: Release = (4, 46)

#: The methods whose virtual tokens depend on the cache and the masks of transformers. Others depend on modules only.
VIRTUAL_TOKENS = ("prefix", "prompt", "p_tuning")

#: The first release in which steps with virtual tokens were verified, except for GPT-BigCode.
FIRST_VIRTUAL_TOKENS: Release = (4, 57)

#: The release from which on configs list the types of layers. Before, all layers of Gemma 2 have a window but each
#: second one, and all of Gemma 3 but each one that `sliding_window_pattern` counts.
#: Source: transformers 4.52.4, models/gemma3/modeling_gemma3.py, Gemma3Attention.__init__ (is_sliding).
LISTS_LAYER_TYPES: Release = (4, 53)
PATTERN = {"gemma2": 2, "gemma3_text": 6}

#: The rotary types with constant frequencies, for which older releases keep one buffer.
CONSTANT = ("default", "linear", "llama3", "yarn")

#: Why models with experts are refused before transformers 5.
#: Source: transformers 4.57, models/mixtral/modeling_mixtral.py, MixtralSparseMoeBlock.
EXPERTS = (
    " (before 5, an expert is a module of its own, whose torch.nn.Linear layers bitsandbytes stores in 4 bits, and"
    " which runs on as many tokens as routing sends it)"
)

#: The model types whose experts are modules of their own before transformers 5.
MODULES_OF_EXPERTS = (
    *("deepseek_v2", "deepseek_v3", "ernie4_5_moe", "glm4_moe", "jamba", "minimax_m2", "mixtral", "olmoe", "phimoe"),
    *("qwen2_moe", "qwen3_moe", "qwen3_next"),
)

#: The first release whose routers' loss sums over the layers one by one.
#: Source: transformers 5.22, models/mixtral/modeling_mixtral.py, load_balancing_loss_func.
ROUTER_LOSS_BY_LAYERS: Release = (5, 23)

#: The release from which on PEFT keeps adapters in float32. Before, they have the model's dtype, except on 4-bit
#: weights.
#: Source: peft 0.12.0, tuners/tuners_utils.py, cast_adapter_dtype.
FLOAT32_ADAPTERS = (0, 12)


def problems(
    versions: StackVersions, model_type: str | None, config: Mapping[str, Any], method: str, tokens: int
) -> Iterator[Problem]:
    """Yield why a request with an older transformers is refused for a model and a method.

    `tokens` is the length of a sequence whose mask has a window, or 0.
    """
    if not is_older(versions):
        return
    for message in _messages(versions, model_type, config, method, tokens):
        yield Problem(
            loc="stack.transformers", msg=f"{message}: use {DEFAULT_STACK.transformers}", input=versions.transformers
        )


def untraced(versions: StackVersions, model_type: str | None, method: str) -> Iterator[str]:
    """Yield a sentence if no step of the release was traced for the model and the method."""
    if not is_older(versions):
        return
    version = release(versions.transformers)[:2]
    virtual = method in VIRTUAL_TOKENS and version == FIRST_VIRTUAL_TOKENS
    if version not in TRACED.get(model_type or "", ()) or not (virtual or method in TRACED_METHODS):
        yield _untraced_sentence("step", versions, model_type, method)


def passes_problems(
    versions: StackVersions, model_type: str | None, method: str, tokens: int, *, window: int | None
) -> Iterator[Problem]:
    """Yield why the passes of `generate` in an older transformers are refused.

    `tokens` counts the prompt and the answer. `window` is the window of the layers' masks, or None.
    """
    if not is_older(versions):
        return
    named, newest = f"transformers {versions.transformers}", DEFAULT_STACK.transformers
    if method in VIRTUAL_TOKENS and release(versions.transformers)[:2] >= FIRST_VIRTUAL_TOKENS:
        message = f"how {named} generates with the virtual tokens of {method} is not known: use {newest}"
        yield Problem(loc="stack.transformers", msg=message, input=versions.transformers)
    first = SHARED_PASSES.get(model_type or "", FIRST_PASSES)
    if FIRST.get(model_type or "", (5,)) >= (5,):
        first = release(newest)
    if release(versions.transformers)[:2] < first:
        reason = f"from {dotted(first)} on they are known: use {newest}"
        message = f"the passes of generate in {named} are not known for {model_type}; {reason}"
        yield Problem(loc="stack.transformers", msg=message, input=versions.transformers)
    if release(versions.transformers)[:2] < WINDOWED_CACHES and window is not None and tokens >= window:
        message = f"the caches of {named} for {tokens:,} tokens and a sliding window of {window:,} are not known"
        yield Problem(loc="stack.transformers", msg=f"{message}: use {newest}", input=versions.transformers)


def untraced_passes(versions: StackVersions, model_type: str | None, method: str) -> Iterator[str]:
    """Yield a sentence if no pass of the release was traced for the model and the method."""
    if not is_older(versions):
        return
    traced = TRACED_PASSES.get(model_type or "", ())
    if release(versions.transformers)[:2] not in traced or method not in TRACED_METHODS:
        yield _untraced_sentence("pass of generate", versions, model_type, method)


def _untraced_sentence(what: str, versions: StackVersions, model_type: str | None, method: str) -> str:
    return (
        f"No {what} of {model_type} with {method} was traced with transformers {versions.transformers}. The figures"
        f" assume that it differs from {DEFAULT_STACK.transformers} by the changes above only."
    )


def trainer_problems(versions: StackVersions, training: Training) -> Iterator[Problem]:
    """Yield why a trainer, or kernels that replace a model's code, are refused with an older transformers."""
    if not is_older(versions):
        return
    named, newest = f"transformers {versions.transformers}", DEFAULT_STACK.transformers
    if not knows_trainer(training.trainer, versions):
        traced = OLDER_TRAINERS.get(training.trainer or "")
        older = f"stack.trl {listed((traced,))}, " if traced else ""
        trl_release = f" of TRL {versions.trl}" if (training.trainer or "").startswith("trl-") else ""
        message = (
            f"what {training.trainer}{trl_release} does with {named} is not known: use {older}transformers, or"
            f" stack.transformers {newest}"
        )
        yield Problem(loc="training.trainer", msg=message, input=training.trainer)
    steps = training.gradient_accumulation_steps
    if training.trainer is not None and release(versions.transformers)[:2] < FETCHES_STEPS and steps > 1:
        message = (
            f"{named} fetches the {steps} micro-batches of a step one by one, which is not modeled: use 1, or 4.46"
        )
        yield Problem(loc="training.gradient_accumulation_steps", msg=message, input=steps)
    if training.use_liger_kernel:
        message = f"what Liger's kernels patch in {named} is not known: use false, or stack.transformers {newest}"
        yield Problem(loc="training.use_liger_kernel", msg=message, input=True)


def flash_problems(versions: StackVersions, training: Training, hidden_dtype: DType) -> Iterator[Problem]:
    """Yield float32 queries of rotary tables in another dtype than autocast's, which flash_attention_2 then refuses.

    Source: transformers 4.48.3, modeling_flash_attention_utils.py, fa_peft_integration_check (value.dtype);
    flash-attn, csrc/flash_attn/flash_api.cpp, mha_fwd.
    """
    if release(versions.transformers)[:2] != FLOAT32_QUERIES or training.attention != "flash_attention_2":
        return
    if training.autocast not in (None, hidden_dtype):
        message = (
            f"transformers {versions.transformers} gives FlashAttention 2 float32 queries under autocast to"
            f" {training.autocast} with hidden states in {hidden_dtype}, which it refuses: use sdpa, or"
            " stack.transformers 4.49 or later"
        )
        yield Problem(loc="training.attention", msg=message, input=training.attention)


def checkpoint_problems(versions: StackVersions, model_type: str | None, training: Training) -> Iterator[Problem]:
    """Yield gradient checkpointing of a model whose layers the release does not checkpoint."""
    first, next_one = WITHOUT_CHECKPOINTS.get(model_type or "", ((0,), (0,)))
    if not training.gradient_checkpointing or not first <= release(versions.transformers)[:2] < next_one:
        return
    message = (
        f"transformers {versions.transformers} checkpoints no layer of {model_type}: use false, or stack.transformers"
        f" {DEFAULT_STACK.transformers}"
    )
    yield Problem(loc="training.gradient_checkpointing", msg=message, input=True)


def bigcode_problems(
    versions: StackVersions, model_type: str | None, config: Mapping[str, Any], training: Training
) -> Iterator[Problem]:
    """Yield the settings that GPT-BigCode's own code in older releases does not support, or runs differently.

    Source: transformers 4.53.3, models/gpt_bigcode/modeling_gpt_bigcode.py (GPTBigCodeAttention._attn, whose softmax
    is a torch.jit.script function).
    """
    version = release(versions.transformers)[:2]
    if model_type != "gpt_bigcode" or version >= SHARED_BIGCODE:
        return
    name, newest = f"transformers {versions.transformers}", DEFAULT_STACK.transformers
    if training.trainer is not None and training.gradient_checkpointing and version < RETURNS_CACHES:
        message = f"how long {name} keeps gpt_bigcode's masks under re-entrant checkpointing is not known: use false"
        yield Problem(loc="training.gradient_checkpointing", msg=message, input=True)
    if training.attention != "sdpa":
        why = " (TorchScript compiles its softmax for the GPU)" if training.attention == "eager" else ""
        message = (
            f"gpt_bigcode's {training.attention} in {name} is not known{why}: use sdpa, or stack.transformers {newest}"
        )
        yield Problem(loc="training.attention", msg=message, input=training.attention)
    if not config["multi_query"]:
        message = f"gpt_bigcode with a key for each head in {name} is not known: use {newest}"
        yield Problem(loc="stack.transformers", msg=message, input=versions.transformers)


def router_problems(versions: StackVersions, model: Model) -> Iterator[Problem]:
    """Yield a routers' loss that an older release computes from the logits of all layers at once."""
    if not model.adds_router_loss or release(versions.transformers)[:2] >= ROUTER_LOSS_BY_LAYERS:
        return
    message = (
        f"the routers' loss of {model.model_type} in transformers {versions.transformers} is not known: set"
        f" output_router_logits to false, or use stack.transformers {DEFAULT_STACK.transformers}"
    )
    yield Problem(loc="model.config.output_router_logits", msg=message, input=True)


def gpt2_problems(versions: StackVersions, model_type: str | None, training: Training) -> Iterator[Problem]:
    """Yield the attention of GPT-2 that older releases compute with the buffers of their layers.

    Source: transformers 4.57.6, models/gpt2/modeling_gpt2.py, eager_attention_forward.
    """
    if training.attention != "eager" or "causal_mask_of_every_layer" not in older_behavior(versions, model_type):
        return
    message = (
        f"eager attention of gpt2 in transformers {versions.transformers} is not known: use sdpa, or stack.transformers"
        f" {DEFAULT_STACK.transformers}"
    )
    yield Problem(loc="training.attention", msg=message, input="eager")


def _messages(
    versions: StackVersions, model_type: str | None, config: Mapping[str, Any], method: str, tokens: int
) -> Iterator[str]:
    named = f"transformers {versions.transformers}"
    first = FIRST.get(model_type or "")
    if first is None or release(versions.transformers)[:2] < first:
        since = f"; from {dotted(first)} on it is" if first else ""
        has_modules = model_type in MODULES_OF_EXPERTS and release(versions.transformers) < (5,)
        why = EXPERTS if has_modules else ""
        yield f"what {named} does for {model_type} is not known{why}{since}"
    has_cache = release(versions.transformers)[:2] >= FIRST_VIRTUAL_TOKENS and model_type != "gpt_bigcode"
    if method in VIRTUAL_TOKENS and not has_cache:
        yield f"how {named} runs the virtual tokens of {method} is not known"
    rotary = (config.get("rope_parameters") or {}).get("rope_type", "default")
    if rotary not in CONSTANT:
        yield f"the rotary buffers of rope_type {rotary} in {named} are not known"
    if model_type == "gemma3_text" and release(versions.transformers) < (5,) and len({*config["layer_types"]}) == 1:
        yield f"the rotary tables of {named} for layers of one type are not known"
    pattern = config.get("sliding_window_pattern", PATTERN.get(model_type or ""))
    older = model_type in PATTERN and release(versions.transformers)[:2] < LISTS_LAYER_TYPES
    if older and not _repeats(config, pattern):
        yield f"{named} does not read layer_types: every layer but each {pattern}th has a window there"
    window = config.get("sliding_window")
    if "float_masks" in older_behavior(versions, model_type) and window is not None and tokens >= window:
        yield f"the masks of {named} for {tokens:,} tokens and a sliding window of {window:,} are not known"


def _repeats(config: Mapping[str, Any], pattern: int) -> bool:
    """Return whether all layers have a window but each one that the pattern counts."""
    types = enumerate(config["layer_types"], 1)
    return all((row == "full_attention") == (number % pattern == 0) for number, row in types)


def adapter_problems(versions: StackVersions, training: Training, method: str, *, four_bits: bool) -> Iterator[Problem]:
    """Yield why an older PEFT would not keep adapters in float32."""
    if release(versions.peft) >= FLOAT32_ADAPTERS or training.adapter_dtype != "float32":
        return
    if training.dtype == "float32" or four_bits or method not in ("lora", "ia3"):
        return
    message = f"peft {versions.peft} keeps adapters in the model's dtype: use model, or peft 0.12 or later"
    yield Problem(loc="training.adapter_dtype", msg=message, input=training.adapter_dtype)
