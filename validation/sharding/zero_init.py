"""A model that transformers builds under deepspeed.zero.Init, because it knows of ZeRO-3 before."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from transformers import AutoConfig
from transformers.integrations import HfDeepSpeedConfig

from validation.reference.build import config_of as model_config_of
from validation.sharding.host_reads import HostReads

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from calculator.estimation.request import Request
    from calculator.inputs.sharding import Sharding
    from validation.sharding.streams import Streams


def applies(request: Request, sharding: Sharding) -> bool:
    """Return whether the model is built so; one in 4 bits is not (modeling_utils.py, get_init_context)."""
    return sharding.stage == 3 and sharding.zero3_init_flag and not request.method.facts.quantizes_base


@contextmanager
def zero_init(request: Request, sharding: Sharding, streams: Streams, device: torch.device) -> Iterator[None]:
    """Let transformers know of the run's ZeRO-3 inside the context, as accelerate's `DeepSpeedPlugin` does."""
    if not applies(request, sharding):
        yield
        return
    from deepspeed import comm  # noqa: PLC0415  (DeepSpeed is optional)

    from validation.sharding.accelerator import forget_groups, posing_as_cuda  # noqa: PLC0415  (as above)
    from validation.sharding.zero import auto_hidden_size, config_of  # noqa: PLC0415  (as above)

    hidden_size = auto_hidden_size(AutoConfig.for_model(**model_config_of(request)))
    forget_groups()
    backend = "fake" if device.type == "meta" else "gloo"
    with posing_as_cuda(device.type, streams, backend), HostReads():
        comm.init_distributed(backend, auto_mpi_discovery=False, verbose=False)
        hf_config = HfDeepSpeedConfig(config_of(request.training, sharding, hidden_size))
        yield
        del hf_config
