"""One rank of N on a CUDA device, or on a stub of one, with PyTorch's `fake` process group.

The libraries run as they do on a GPU, with its streams and its allocator. Their collectives return at once.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING
from unittest import mock

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def one_rank_on_cuda(count: int, rank: int) -> Iterator[None]:
    """Make this process rank `rank` of `count`, on its one GPU, inside the context."""
    environment = {"LOCAL_RANK": "0", "RANK": str(rank), "WORLD_SIZE": str(count), "DS_ACCELERATOR": "cuda"}
    torch.cuda.set_device(0)
    with mock.patch.dict(os.environ, environment), ExitStack() as stack:
        dist.init_process_group("fake", rank=rank, world_size=count, store=FakeStore())
        stack.callback(dist.destroy_process_group)
        yield
