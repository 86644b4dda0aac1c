"""Collectives of tensors on meta, for releases of PyTorch in which the `fake` process group has none.

PyTorch 2.12 registers them itself (torch/testing/_internal/distributed/fake_pg.py). Like those, they return the tensors
that they are given, and allocate nothing.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: The collectives that return their first argument and the work.
_RETURNING = ("broadcast_", "allreduce_", "allgather_", "_allgather_base_", "reduce_scatter_", "_reduce_scatter_base_")
#: The collectives that return the work alone.
_WORKING = ("reduce_", "allgather_into_tensor_coalesced_", "reduce_scatter_tensor_coalesced_", "barrier")


@contextmanager
def on_meta() -> Iterator[None]:
    """Register collectives on meta where PyTorch has none. A process group has to exist."""
    with ExitStack() as stack:
        library = torch.library.Library("c10d", "IMPL")
        stack.callback(library._destroy)
        for name in (*_RETURNING, *_WORKING):
            if not torch._C._dispatch_has_kernel_for_dispatch_key(f"c10d::{name}", "Meta"):
                library.impl(name, _kernel(returns=name in _RETURNING), "Meta")
        yield


def _kernel(*, returns: bool) -> Callable[..., Any]:
    def run(tensors: Any, *_: Any, **__: Any) -> Any:
        work = dist.all_reduce(torch.empty(0, device="cpu"), async_op=True).boxed()
        return (tensors, work) if returns else work

    return run
