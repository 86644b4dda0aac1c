"""The differences of older library releases from the releases of the reference step."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from calculator.stack.change import Change

if TYPE_CHECKING:
    from calculator.inputs.stack import StackVersions
    from calculator.stack.change import ChangeName
    from calculator.stack.releases import Release

#: The release from which on a model type runs the shared code of attention and of its masks.
_SHARED_ATTENTION: dict[str, Release] = {"gpt_bigcode": (4, 54)}

CHANGES: dict[ChangeName, Change] = {
    "shifted_logits": Change(
        package="transformers",
        affects="steps",
        before=(4, 49),
        sentence="the loss copies the float32 logits without each sequence's last position",
        source="transformers 4.48.3, loss/loss_utils.py, ForCausalLMLoss",
    ),
    "reassigned_logits": Change(
        package="transformers",
        affects="steps",
        before=(4, 46),
        sentence="the float32 logits replace the half-precision ones, which are freed before the loss",
        source="transformers 4.45.2, models/llama/modeling_llama.py, LlamaForCausalLM.forward",
        shared_since={"gpt_bigcode": (4, 46)},
    ),
    "logits_reassigned_by_mistral": Change(
        package="transformers",
        affects="steps",
        since=(4, 46),
        before=(4, 48),
        sentence="the float32 logits replace the half-precision ones, which are freed before the loss",
        source="transformers 4.47.1, models/mistral/modeling_mistral.py, MistralForCausalLM.forward",
        model_types=("mistral",),
    ),
    "tables_of_every_layer": Change(
        package="transformers",
        before=(4, 48),
        sentence="every layer computes and keeps cosines and sines of its own",
        source="transformers 4.47.1, models/mistral/modeling_mistral.py, MistralSdpaAttention.forward",
        model_types=("mistral", "gemma", "gemma2"),
    ),
    "tables_of_all_positions": Change(
        package="transformers",
        before=(4, 43),
        sentence="every layer keeps cosines and sines for all positions of the model",
        source="transformers 4.39.3, models/mistral/modeling_mistral.py, MistralRotaryEmbedding._set_cos_sin_cache",
        model_types=("mistral",),
    ),
    "inv_freq_of_every_layer": Change(
        package="transformers",
        before=(4, 48),
        sentence="every layer has inverse frequencies that it does not use",
        source="transformers 4.47.1, models/llama/modeling_llama.py, LlamaAttention.__init__",
        model_types=("llama", "qwen2"),
    ),
    "values_cached_as_keys": Change(
        package="transformers",
        since=(4, 56),
        before=(5, 24),
        sentence="the cache keeps values in the keys' data type",
        source="transformers 4.57.6, cache_utils.py, DynamicLayer.lazy_initialization",
    ),
    "cache_without_copies": Change(
        package="transformers",
        before=(4, 56),
        sentence="the cache refers to keys and values without copying them",
        source="transformers 4.55.4, cache_utils.py, DynamicLayer.update",
    ),
    "windows_without_counters": Change(
        package="transformers",
        before=(5, 0),
        sentence="the cache of a layer with a window counts its tokens on the CPU",
        source="transformers 4.57.6, cache_utils.py, DynamicSlidingWindowLayer",
    ),
    "repeated_keys": Change(
        package="transformers",
        before=(4, 54),
        sentence="sdpa repeats keys and values to the number of the queries' heads",
        source="transformers 4.53.3, integrations/sdpa_attention.py, sdpa_attention_forward",
        shared_since=_SHARED_ATTENTION,
    ),
    "repeated_keys_of_flash": Change(
        package="transformers",
        before=(4, 48),
        sentence="flash_attention_2 repeats keys and values to the number of the queries' heads",
        source="transformers 4.45.2, models/mistral/modeling_mistral.py, MistralFlashAttention2.forward",
        model_types=("mistral", "qwen2"),
    ),
    "repeated_keys_of_one_token": Change(
        package="transformers",
        since=(4, 54),
        before=(5, 23),
        sentence="sdpa repeats keys and values for the query of a single token with a mask",
        source="transformers 5.22.2, integrations/sdpa_attention.py, sdpa_attention_forward",
    ),
    "contiguous_queries": Change(
        package="transformers",
        since=(4, 48),
        before=(4, 56),
        sentence="sdpa copies queries, keys and values to be contiguous by heads, and its output back",
        source="transformers 4.53.3, integrations/sdpa_attention.py, sdpa_attention_forward",
        shared_since=_SHARED_ATTENTION,
    ),
    "float_masks": Change(
        package="transformers",
        before=(4, 53),
        sentence="sdpa's masks have the model's dtype; all layers share them",
        source="transformers 4.52.4, models/llama/modeling_llama.py, LlamaModel._update_causal_mask",
        shared_since={**_SHARED_ATTENTION, "gemma2": (4, 53), "gemma3_text": (4, 53)},
    ),
    "masks_without_cache": Change(
        package="transformers",
        affects="steps",
        since=(4, 53),
        before=(5, 0),
        sentence="without a cache and an attention mask, sdpa gets a mask for packed sequences, so that it runs the"
        " memory-efficient kernel on repeated keys and values",
        source="transformers 4.57.6, masking_utils.py, find_packed_sequence_indices",
        shared_since=_SHARED_ATTENTION,
    ),
    "one_inv_freq": Change(
        package="transformers",
        before=(5, 0),
        sentence="the original inverse frequencies are no buffer of their own",
        source="transformers 4.57.6, models/llama/modeling_llama.py, LlamaRotaryEmbedding",
    ),
    "embeddings_scaled_by_a_number": Change(
        package="transformers",
        before=(5, 4),
        sentence="the embeddings are multiplied with a number behind their module, which has no buffer for it",
        source="transformers 4.57.6, models/gemma/modeling_gemma.py, GemmaModel.forward (normalizer)",
        model_types=("gemma", "gemma2"),
    ),
    "causal_mask_of_every_layer": Change(
        package="transformers",
        before=(5, 2),
        sentence="every layer has a buffer with a causal mask of all positions",
        source="transformers 5.1.0, models/gpt2/modeling_gpt2.py, GPT2Attention.__init__ (bias)",
        model_types=("gpt2",),
    ),
    "masked_bias_of_every_layer": Change(
        package="transformers",
        before=(5, 0),
        sentence="every layer has a buffer with the score of masked positions",
        source="transformers 4.57.6, models/gpt2/modeling_gpt2.py, GPT2Attention.__init__ (masked_bias)",
        model_types=("gpt2",),
    ),
    "masks_of_windowed_layers": Change(
        package="transformers",
        before=(4, 53),
        sentence="every pass has a mask in the model's dtype, of which each layer with a window makes one of its own",
        source="transformers 4.52.4, models/gemma2/modeling_gemma2.py, Gemma2DecoderLayer.forward",
        model_types=("gemma2", "gemma3_text"),
    ),
    "masks_copied_by_index": Change(
        package="transformers",
        since=(4, 49),
        before=(4, 53),
        sentence="that mask is copied again, by the positions in the window",
        source="transformers 4.52.4, models/gemma2/modeling_gemma2.py, Gemma2DecoderLayer.forward (mask_indexes)",
        model_types=("gemma2", "gemma3_text"),
    ),
    "masks_in_every_pass": Change(
        package="transformers",
        before=(4, 54),
        sentence="every pass has a mask in the model's dtype, with which sdpa runs the memory-efficient kernel",
        source="transformers 4.53.3, models/gpt_bigcode/modeling_gpt_bigcode.py, GPTBigCodeModel.forward",
        model_types=("gpt_bigcode",),
    ),
    "positions_outside_of_layers": Change(
        package="transformers",
        before=(4, 52),
        sentence="the layers do not receive the positions, so that their checkpoints do not keep them",
        source="transformers 4.51.3, models/gpt2/modeling_gpt2.py, GPT2Model.forward (no cache_position)",
        model_types=("gpt2",),
    ),
    "positions_of_the_cache": Change(
        package="transformers",
        affects="trainers",
        before=(5, 0),
        sentence="a model that is given positions counts those of its cache too, which its layers receive",
        source="transformers 4.57.6, models/llama/modeling_llama.py, LlamaModel.forward (cache_position)",
    ),
    "rows_of_no_expert": Change(
        package="transformers",
        since=(5, 8),
        before=(5, 18),
        sentence="a mask of the rows of no expert is saved in every layer with experts, which fills them with zeros",
        source="transformers 5.12.1, integrations/moe.py, grouped_mm_experts_forward (sentinel_mask)",
        model_types=("ernie4_5_moe", "gpt_oss", "mixtral", "olmoe", "phimoe", "qwen2_moe", "qwen3_moe"),
    ),
    "logits_in_their_own_dtype": Change(
        package="transformers",
        affects="steps",
        before=(4, 48),
        sentence="the loss is computed in the dtype of the logits",
        source="transformers 4.47.1, models/gpt_bigcode/modeling_gpt_bigcode.py, GPTBigCodeForCausalLM.forward",
        model_types=("gpt_bigcode",),
    ),
    "caches_of_checkpointed_layers": Change(
        package="transformers",
        affects="steps",
        before=(4, 53),
        sentence="use_cache stays on under checkpointing: the output refers to the keys and values of every layer",
        source="transformers 4.52.4, models/gpt_bigcode/modeling_gpt_bigcode.py, GPTBigCodeModel.forward",
        model_types=("gpt_bigcode",),
    ),
    "no_cache_in_training": Change(
        package="transformers",
        affects="steps",
        before=(5, 0),
        sentence="the model makes no cache while it trains",
        source="transformers 4.57.6, models/gemma2/modeling_gemma2.py, Gemma2Model.forward",
        model_types=("gemma2", "gemma3_text"),
    ),
    "sdpa_without_softcapping": Change(
        package="transformers",
        before=(5, 21),
        sentence="sdpa runs its kernels, which do not cap the scores",
        source="transformers 4.57.6, models/gemma2/modeling_gemma2.py, Gemma2PreTrainedModel (_supports_sdpa)",
        model_types=("gemma2",),
    ),
    "inputs_of_frozen_4bit_layers": Change(
        package="bitsandbytes",
        affects="steps",
        before=(0, 43, 2),
        sentence="a 4-bit layer keeps its input for the backward pass, out of checkpointing's reach",
        source="bitsandbytes 0.43.1, autograd/_functions.py, MatMul4Bit.forward (ctx.tensors)",
    ),
    "compute_dtype_of_the_input": Change(
        package="bitsandbytes",
        before=(0, 47),
        sentence="a 4-bit layer computes in the data type of its first input, if that is float32 or bfloat16",
        source="bitsandbytes 0.46.1, nn/modules.py, Linear4bit.__init__ and set_compute_type",
    ),
    "cache_of_the_config": Change(
        package="transformers",
        affects="trainers",
        before=(5, 0),
        sentence="Trainer leaves use_cache as the model's config sets it",
        source="transformers 4.57.6, trainer.py, Trainer.__init__",
    ),
    "reentrant_by_default": Change(
        package="transformers",
        affects="trainers",
        before=(5, 0),
        sentence="checkpointing is re-entrant unless gradient_checkpointing_kwargs says otherwise",
        source="transformers 4.57.6, modeling_utils.py, PreTrainedModel.gradient_checkpointing_enable",
    ),
    "norm_of_the_step_before": Change(
        package="transformers",
        affects="trainers",
        before=(5, 3),
        sentence="the norm of the previous step's gradients is kept while that of the next is computed",
        source="transformers 4.57.6, trainer.py, Trainer._inner_training_loop (_grad_norm)",
    ),
    "norms_only_to_clip": Change(
        package="transformers",
        affects="trainers",
        before=(5, 3),
        sentence="without max_grad_norm, no norm of the gradients is computed",
        source="transformers 4.57.6, trainer.py, Trainer._inner_training_loop",
    ),
    "labels_counted_in_python": Change(
        package="transformers",
        affects="trainers",
        before=(4, 50),
        sentence="the number of labels in a step is a Python number",
        source="transformers 4.49.0, trainer.py, Trainer.get_batch_samples",
    ),
    "mean_loss_of_a_micro_batch": Change(
        package="transformers",
        affects="trainers",
        before=(4, 46),
        sentence="the loss is the mean of a micro-batch, divided by the accumulation steps",
        source="transformers 4.45.2, trainer.py, Trainer.training_step",
    ),
    "mean_loss_of_models_without_loss_kwargs": Change(
        package="transformers",
        affects="trainers",
        since=(4, 46),
        before=(4, 48),
        sentence="the loss is the mean of a micro-batch, because the model's forward takes no number of labels",
        source="transformers 4.47.1, trainer.py, Trainer.compute_loss (model_accepts_loss_kwargs)",
        model_types=("gpt_bigcode", "mistral"),
    ),
    "embeddings_in_8_bits": Change(
        package="transformers",
        affects="trainers",
        before=(4, 52),
        sentence="8-bit optimizers keep the states of embeddings in 8 bits too",
        source="transformers 4.51.3, trainer.py, Trainer.create_optimizer (Adam8bit)",
    ),
    "norms_by_class": Change(
        package="transformers",
        affects="trainers",
        before=(4, 49),
        sentence="weight decay leaves out biases, torch.nn.LayerNorm and LlamaRMSNorm, but no other norm",
        source="transformers 4.48.3, trainer.py, Trainer.get_decay_parameter_names",
    ),
    "norms_by_name": Change(
        package="transformers",
        affects="trainers",
        since=(4, 49),
        before=(4, 53),
        sentence="weight decay leaves out norms whose names have layernorm or rmsnorm, torch.nn.LayerNorm and"
        " LlamaRMSNorm, but no other norm",
        source="transformers 4.52.4, trainer.py, Trainer.get_decay_parameter_names",
    ),
    "embeddings_without_gradients": Change(
        package="transformers",
        affects="steps",
        before=(5, 0),
        sentence="checkpointing gives frozen embeddings no gradient unless the script does, as for adapters",
        source="transformers 4.57.6, modeling_utils.py, PreTrainedModel.gradient_checkpointing_enable",
    ),
    "arguments_saved_by_checkpoints": Change(
        package="transformers",
        affects="trainers",
        before=(4, 52),
        sentence="re-entrant checkpoints save masks and positions with a layer's input, and free them with it",
        source="transformers 4.51.3, models/llama/modeling_llama.py, LlamaModel.forward (_gradient_checkpointing_func)",
    ),
    "arguments_saved_by_later_checkpoints": Change(
        package="transformers",
        affects="trainers",
        since=(4, 52),
        before=(4, 53),
        sentence="re-entrant checkpoints save masks and positions with a layer's input, and free them with it",
        source="transformers 4.52.4, models/gemma2/modeling_gemma2.py, Gemma2Model.forward"
        " (_gradient_checkpointing_func)",
        model_types=("gemma2", "gemma3_text", "gpt2", "gpt_bigcode", "phi"),
    ),
    "math_kernel_for_float32_groups": Change(
        package="torch",
        before=(2, 14),
        sentence="scaled_dot_product_attention runs float32 inputs with grouped heads and no mask in its math kernel",
        source="PyTorch 2.13, aten/src/ATen/native/transformers/cuda/sdp_utils.cpp, can_use_mem_efficient_attention",
    ),
}


#: The changes that affect a step, but not the passes of `generate`, which have a cache but no loss and no gradients.
OF_STEPS: frozenset[ChangeName] = frozenset(name for name, change in CHANGES.items() if change.affects == "steps")

#: The changes that affect the steps of Trainer and of its subclasses only.
OF_TRAINERS: frozenset[ChangeName] = frozenset(name for name, change in CHANGES.items() if change.affects == "trainers")

#: The changes that affect rows of several samples only.
OF_ROWS: frozenset[ChangeName] = frozenset({"positions_of_the_cache"})

#: The changes with which the model's loss is the mean of a micro-batch.
MEAN_LOSSES: frozenset[ChangeName] = frozenset(
    {"mean_loss_of_a_micro_batch", "mean_loss_of_models_without_loss_kwargs"}
)

#: The changes with which re-entrant checkpoints save the masks and the positions that a layer receives.
SAVED_ARGUMENTS: frozenset[ChangeName] = frozenset(
    {"arguments_saved_by_checkpoints", "arguments_saved_by_later_checkpoints"}
)


@cache
def older_behavior(versions: StackVersions, model_type: str | None = None) -> frozenset[ChangeName]:
    """Return the changes that affect a model with these versions. Without a model type, return those of every model."""
    return frozenset(name for name, change in CHANGES.items() if change.applies(versions, model_type))
