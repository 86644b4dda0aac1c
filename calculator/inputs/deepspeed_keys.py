"""DeepSpeed's own spelling of its config, and the keys that a request sets elsewhere.

Source: DeepSpeed 0.19.8, runtime/config.py, runtime/zero/config.py and runtime/zero/offload_config.py.
"""

from __future__ import annotations

from typing import Any

_ONLY_ZERO = "only zero_optimization is read here: leave it out, or import the whole file"
_SAME = "changes no memory: leave it out"
_UNMODELED = "is not modeled: leave it out"

#: The keys of a config that do not change the memory of a step.
WITHOUT_EFFECT = (
    *("zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer", "wall_clock_breakdown", "steps_per_print"),
    *("scheduler", "monitor_config", "tensorboard", "csv_monitor", "wandb", "comms_logger", "comms_config"),
    *("flops_profiler", "dump_state", "checkpoint", "_comment", "prescale_gradients", "gradient_predivide_factor"),
    *("seed", "aio"),
)

#: The keys of `zero_optimization` that do not change the memory of a step.
ZERO_WITHOUT_EFFECT = (
    *("stage3_gather_fp16_weights_on_model_save", "ignore_unused_parameters", "elastic_checkpoint"),
    *("load_from_fp32_weights", "pipeline_loading_checkpoint", "log_trace_cache_warnings"),
)

#: What to do about the keys of a config that a request sets elsewhere, or that no figure depends on.
OF_CONFIG = {
    "bf16": "set training.autocast to bfloat16 instead",
    "fp16": "set training.autocast to float16 instead",
    "optimizer": "set training.optimizer instead",
    "gradient_accumulation_steps": "set training.gradient_accumulation_steps instead",
    "gradient_clipping": "set training.max_grad_norm instead",
    "train_micro_batch_size_per_gpu": "set training.micro_batch_size instead",
    "train_batch_size": "device.count and the sizes of training give it: leave it out",
    **dict.fromkeys(WITHOUT_EFFECT, _SAME),
    **dict.fromkeys(("tensor_parallel", "compile", "torch_autocast", "communication_data_type"), _ONLY_ZERO),
    **dict.fromkeys(("activation_checkpointing", "data_types", "amp", "autotuning"), _ONLY_ZERO),
}

#: What to do about keys of `zero_optimization` that are older names, that change no figure, or that are not modeled.
OF_ZERO = {
    "cpu_offload": 'DeepSpeed now names it offload_optimizer: set {"device": "cpu"} there',
    "cpu_offload_param": 'DeepSpeed now names it offload_param: set {"device": "cpu"} there',
    **dict.fromkeys(ZERO_WITHOUT_EFFECT, _SAME),
    **dict.fromkeys(("zero_hpz_partition_size", "zero_quantized_weights", "zero_quantized_gradients"), _UNMODELED),
    **dict.fromkeys(("zenflow", "leaf_module", "legacy_stage1", "use_multi_rank_bucket_allreduce"), _UNMODELED),
}

#: What to do about keys of offloading that only a swap to NVMe reads.
OF_NVME = dict.fromkeys(
    ("nvme_path", "buffer_count", "buffer_size", "max_in_cpu", "pipeline_read", "pipeline_write", "fast_init"),
    "only a swap to NVMe reads it: leave it out",
)

#: The names of settings of stage 3 that DeepSpeed reads without their prefix too.
SHORT_NAMES = {
    name: f"stage3_{name}"
    for name in (
        "prefetch_bucket_size",
        "param_persistence_threshold",
        "max_live_parameters",
        "max_reuse_distance",
        "gather_16bit_weights_on_model_save",
    )
}


def respelled(zero: dict[str, Any]) -> dict[str, Any]:
    """Return `zero_optimization` with stage 3's full names, and with whole numbers, such as 5e8, as integers."""
    return {
        name if (name := SHORT_NAMES.get(key, key)) == key or name not in zero else key: _as_integer(value)
        for key, value in zero.items()
    }


def _as_integer(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
