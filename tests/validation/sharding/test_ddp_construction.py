"""The flat tensors in which DDP broadcasts a model when it is made, with PyTorch's own function on the meta device."""

import pytest
import torch
import torch.distributed as dist
from torch.distributed.utils import _sync_module_states
from torch.utils._python_dispatch import TorchDispatchMode

from calculator.common.dtype import rounded
from calculator.estimation.estimate import resident_state
from calculator.estimation.request import parse_request
from calculator.sharding.ddp_buffers import LIMIT, construction_broadcasts
from validation.reference.build import META, build_model
from validation.sharding.process_group import one_rank_of
from validation.sharding.streams import Streams

pytestmark = [pytest.mark.trace, pytest.mark.filterwarnings("ignore")]

LLAMA = {
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 6,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "vocab_size": 40_000,
}


GPT2 = {"model_type": "gpt2", "n_embd": 1280, "n_layer": 8, "n_head": 20, "vocab_size": 50_257}


class Joined(TorchDispatchMode):
    """The bytes of the tensors that are joined."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.cat.default:
            self.found.append(rounded(out.nbytes))
        return out


@pytest.mark.parametrize(
    ("config", "method"),
    [
        (LLAMA, {"name": "full"}),
        (LLAMA | {"tie_word_embeddings": True}, {"name": "lora", "target_modules": "all-linear", "r": 64}),
        (LLAMA, {"name": "qlora", "target_modules": "all-linear"}),
        (GPT2, {"name": "full"}),
        (LLAMA | {"num_hidden_layers": 2}, {"name": "prompt"}),
    ],
)
def test_parameters_and_buffers_are_joined_as_ddp_joins_them(config, method):
    device = {"count": 2, "sharding": "ddp"}
    body = {"model": {"config": config}, "method": method, "device": device, "training": {"sequence_length": 64}}
    request = parse_request(body)
    streams = Streams()
    with one_rank_of(2, 0, streams):
        model = build_model(request, META).model
        with Joined() as joined:
            _sync_module_states(model, dist.group.WORLD, LIMIT, 0, (), broadcast_buffers=True)
    flat = construction_broadcasts(resident_state(request).prepared)
    assert [bucket.bytes for bucket in flat if bucket is not None] == joined.found
