"""One rank of N without the others: PyTorch's `fake` process group, whose collectives return at once."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING
from unittest import mock

import torch
import torch.distributed as dist
from torch.distributed import _functional_collectives as funcol
from torch.testing._internal.distributed.fake_pg import FakeStore

from validation.sharding.meta_collectives import on_meta

if TYPE_CHECKING:
    from collections.abc import Iterator

    from validation.sharding.streams import Streams


@contextmanager
def one_rank_of(count: int, rank: int, streams: Streams) -> Iterator[None]:
    """Make this process rank `rank` of `count`, with the meta device in place of CUDA.

    On CUDA the results of functional collectives are wrapped; the meta kernel of the wrapper allocates a copy instead.
    A storage's size can change inside: `torch.UntypedStorage.resize_` frees and refills FSDP's gathered weights.
    """
    dist.init_process_group("fake", rank=rank, world_size=count, store=FakeStore())
    with ExitStack() as stack:
        stack.callback(dist.destroy_process_group)
        stack.enter_context(on_meta())
        stack.enter_context(mock.patch("torch.meta", streams, create=True))
        stack.enter_context(mock.patch("torch.accelerator.current_stream", streams.current_stream))
        stack.enter_context(mock.patch.object(funcol, "_maybe_wrap_tensor", lambda result: result))
        yield


@contextmanager
def resizing_seen(resized: object) -> Iterator[None]:
    """Call `resized` with every storage that is resized inside the context, after it is."""
    original = torch.UntypedStorage.resize_

    def resize(storage: torch.UntypedStorage, size: int) -> torch.UntypedStorage:
        original(storage, size)
        resized(storage)  # type: ignore[operator]
        return storage

    with mock.patch.object(torch.UntypedStorage, "resize_", resize):
        yield
