"""The sizes that determine when stage 3 gathers, releases and reduces."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import NamedTuple

from calculator.inputs.sharding import Offload, ZeroOptimization


class Sizes(NamedTuple):
    """Thresholds in numbers of elements, and the number of GPUs."""

    ranks: int
    prefetch_bucket: int
    persistence_threshold: int
    max_live: int
    max_reuse_distance: int
    reduce_bucket: int
    sub_group: int
    offloads_parameters: bool
    offloads_optimizer: bool
    reduce_scatter: bool


def sizes_of_second(zero: ZeroOptimization, count: int) -> Sizes:
    """Return the sizes of a second model.

    TRL sets no hidden size for it, so DeepSpeed's defaults replace `auto`.

    Source: trl/models/utils.py, prepare_deepspeed; deepspeed/runtime/config_utils.py, DeepSpeedConfigModel.__init__.
    """
    defaults = ZeroOptimization()
    autos = [field.name for field in fields(zero) if getattr(zero, field.name) == "auto"]
    return sizes_of(replace(zero, **{name: getattr(defaults, name) for name in autos}), count, 0)


def sizes_of(zero: ZeroOptimization, count: int, hidden_size: int) -> Sizes:
    """Return the sizes of a run."""
    return Sizes(
        ranks=count,
        prefetch_bucket=zero.resolved("stage3_prefetch_bucket_size", hidden_size),
        persistence_threshold=zero.resolved("stage3_param_persistence_threshold", hidden_size),
        max_live=zero.stage3_max_live_parameters,
        max_reuse_distance=zero.stage3_max_reuse_distance,
        reduce_bucket=zero.resolved("reduce_bucket_size", hidden_size),
        sub_group=zero.sub_group_size,
        offloads_parameters=(zero.offload_param or Offload()).device == "cpu",
        offloads_optimizer=(zero.offload_optimizer or Offload()).device == "cpu",
        reduce_scatter=zero.reduce_scatter,
    )
