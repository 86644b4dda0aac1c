"""What a release of PyTorch lacks, and the requests that are refused for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import Problem
from calculator.stack.releases import dotted, release

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.inputs.stack import StackVersions
    from calculator.inputs.training import Training
    from calculator.stack.releases import Release

#: The first release with torch.optim.Muon.
MUON: Release = (2, 9)
#: The releases of transformers with grouped products of experts that check the GPU's compute capability. Earlier ones
#: of transformers 5 run another implementation, or fail. Source: transformers/integrations/moe.py, _can_use_grouped_mm.
CHECKS_CAPABILITY: Release = (5, 6)
#: The first release whose FSDP2 allows a unit with frozen parameters of other dtypes. Source:
#: torch/distributed/fsdp/_fully_shard/_fsdp_param_group.py, _init_mp_dtypes.
MIXED_FROZEN: Release = (2, 8)
#: The first release in which accelerate excludes 4-bit weights that are stored as integers from FSDP2's units, which
#: refuse them. Source: accelerate/utils/fsdp_utils.py, fsdp2_prepare_model.
IGNORES_INTEGERS: Release = (2, 7)
#: The first release in which the norm of shards' norms is that of reduced ones. Earlier ones reduce the total norm.
#: Source: torch/distributed/tensor/_ops/_math_ops.py, vector_norm_strategy.
REDUCES_NORMS: Release = (2, 11)
#: The first release whose FSDP2 frees the output of an all-gather before the next unit's weights are copied out of
#: theirs, and a unit's last gradient before the output of its reduction is allocated. Earlier ones keep both in local
#: variables. Source: torch/distributed/fsdp/_fully_shard/_fsdp_param_group.py, FSDPCommContext and wait_for_unshard;
#: _fsdp_collectives.py, foreach_reduce.
FREES_EARLY: Release = (2, 15)

#: The first release in which the root's forward pass ends that of a unit of which a module did not run, such as the
#: output head that TRL's loss reads. Before, no unit's gradient gathers the last layer in advance there.
#: Source: PyTorch 2.13, torch/distributed/fsdp/_fully_shard/_fsdp_state.py, _force_complete_incomplete_states.
ENDS_UNITS: Release = (2, 13)

#: The releases whose allocator orders free blocks of one size by the order in which they were made, not by address.
#: Source: PyTorch pull requests 178362, 182929 and 183591.
ORDERS_BY_AGE: Release = (2, 12)
#: The first release that reads the list form of roundup_power2_divisions as the replay does.
READS_DIVISIONS: Release = (2, 10)

#: The first release of PyTorch in which a matrix product frees its workspace when it has run. Source: PyTorch 2.15,
#: ATen/cuda/CUDAContextLight.h, CUDABlasHandleWithWorkspace; TORCH_CUBLAS_WORKSPACE_CACHE=1 undoes it.
FREES_WORKSPACES: Release = (2, 15)


def frees_workspaces(stack: StackVersions) -> bool:
    """Return whether a matrix product frees its workspace when it has run."""
    return release(stack.torch)[:2] >= FREES_WORKSPACES


def memory_remarks(versions: StackVersions, alloc_conf: str | None) -> Iterator[str]:
    """Yield how a release's allocation of memory differs from that of other releases."""
    named = f"PyTorch {versions.torch}"
    if frees_workspaces(versions):
        yield (
            f"{named} frees the workspace of a matrix product when it has run. It is counted while a product runs, but"
            " not in the optimizer's step and in fused losses; library_workspace_bytes is 0."
            " TORCH_CUBLAS_WORKSPACE_CACHE=1 in the environment makes threads keep theirs, as earlier releases do."
        )
    if release(versions.torch)[:2] == ORDERS_BY_AGE:
        yield (
            f"{named} takes the block that was made first among free blocks of equal size, and the replay the one with"
            " the lowest address. In measured steps, reserved memory differed by less than 1 %."
        )
    if release(versions.torch)[:2] < READS_DIVISIONS and alloc_conf and "roundup_power2_divisions:[" in alloc_conf:
        yield f"{named} reads the list form of roundup_power2_divisions differently: its sizes are those of 2.13 here."


def optimizer_problems(versions: StackVersions, training: Training) -> Iterator[Problem]:
    """Yield an optimizer that the release of PyTorch does not have."""
    if training.optimizer == "muon" and release(versions.torch)[:2] < MUON:
        message = (
            f"PyTorch {versions.torch} has no torch.optim.Muon: use another optimizer, or stack.torch {dotted(MUON)}"
        )
        yield Problem(loc="training.optimizer", msg=message, input="muon")


def expert_problems(versions: StackVersions, *, grouped_mm: bool) -> Iterator[Problem]:
    """Yield the releases of transformers whose experts are not modeled without a grouped product."""
    if grouped_mm or not (5,) <= release(versions.transformers)[:2] < CHECKS_CAPABILITY:
        return
    message = (
        f"how transformers {versions.transformers} runs experts where PyTorch {versions.torch} has no grouped matrix"
        f" product for the GPU is not modeled: use {dotted(CHECKS_CAPABILITY)} or later"
    )
    yield Problem(loc="stack.transformers", msg=message, input=versions.transformers)
