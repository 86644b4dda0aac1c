"""Optimizers by their Hugging Face names."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal, get_args

from calculator.common.names import OptimizerName
from calculator.resident.optimizer import Optimizer, Storage

if TYPE_CHECKING:
    from calculator.common.dtype import DType
    from calculator.inputs.training import Training

_TORCH = "torch/optim"
_BITSANDBYTES = "bitsandbytes/optim/optimizer.py"

_ADAM = ("exp_avg", "exp_avg_sq")
_BNB = ("state1", "state2")

_ADAMW_TORCH = Optimizer(
    name="adamw_torch", names=_ADAM, storage="parameter", temporaries=1, source=f"{_TORCH}/adam.py"
)
_TORCHAO: tuple[tuple[OptimizerName, Storage], ...] = (
    ("adamw_torch_8bit", "torchao_8bit"),
    ("adamw_torch_4bit", "torchao_4bit"),
)
COMPILED = (
    "torchao compiles the optimizer's update of each parameter. What the compiled kernels allocate is not known without"
    " a CUDA device and not counted: about 8 bytes for each element of the largest parameter if nothing is fused."
)
_GALORE = "galore_torch/adamw.py, adafactor.py and galore_projector.py"
_APOLLO = "apollo_torch/apollo.py and random_projector.py"
RENEWED = (
    "The optimizer's step is one that makes the projections again, as the first does and then every update_proj_gap-th."
)
DECOMPOSED = (
    "The workspace of cuSOLVER's singular value decomposition (gesvdj) is not known without a CUDA device and not"
    " counted: it comes on top in the optimizer's step."
)
WITHOUT_A = (
    "LoRA-FA trains only B of each pair: PEFT's create_lorafa_optimizer freezes every lora_A. After disable_adapter, A"
    " requires a gradient again: such a run keeps what LoRA keeps, and A's gradients."
)
PSEUDOINVERSE = (
    "The workspace of cuSOLVER's singular value decomposition (gesvdj) of an r x r matrix, in torch.linalg.pinv, is not"
    " known without a CUDA device and not counted in the optimizer's step."
)
ON_HOST = (
    "GrokAdamW keeps its three states of each parameter in host memory, and copies those of one parameter to the GPU in"
    " turn."
)
#: Source: lomo_optim/lomo.py and adalomo.py, fuse_update; only fuse_update_zero3 reduces gradients.
_BEFORE_REDUCTION = "its hooks update each weight with this GPU's gradient, before DDP has reduced it"
#: Source: transformers/trainer_optimizer.py, _setup_low_rank_optimizer.
_NO_LAYERS = "transformers raises NotImplementedError for layerwise optimizers in several processes"
#: PyTorch's error if they run on shards: "got mixed torch.Tensor and DTensor".
_MIXED = "it computes with plain tensors next to FSDP2's DTensor shards, for which PyTorch raises an error"
#: The sentences on these optimizers with DTensor shards. Both were run with two processes.
_MUON_GATHERS = "on FSDP2's DTensor shards it runs, but its matrix products gather whole ones, which is not modeled"
_GALORE_GATHERS = (
    "on FSDP2's DTensor shards it runs: torch.linalg.svd gathers whole gradients, and the states of tall and of wide "
    "matrices are sharded differently, which is not modeled"
)
#: Source: torch/optim/_muon.py, _single_tensor_muon.
_NO_MATRICES = "torch.optim.Muon raises an error for the partitions of ZeRO, which are no matrices"
#: Source: torch/distributed/fsdp/_fully_shard/_fsdp_collectives.py, foreach_reduce; lomo_optim/lomo.py, register_hook.
_NO_HOOKS = "its hooks are on the shards: FSDP2 sets their gradients itself, and runs no such hook"
UNCLIPPED = (
    "Gradients are freed as soon as their parameters are updated, so none is left to clip: max_grad_norm does nothing."
)
_GALORE_8BIT = "galore_torch/adamw8bit.py and galore_projector.py, over bitsandbytes/optim/optimizer.py"
#: Since bitsandbytes 0.50, GaLore passes its percentile_clipping of 100 as max_unorm, for which a norm is kept.
_UNORM: tuple[tuple[str, DType | Literal["parameter"]], ...] = (("unorm_vec", "float32"),)
_LAYERWISE: tuple[tuple[OptimizerName, OptimizerName], ...] = (
    ("galore_adamw_layerwise", "galore_adamw"),
    ("apollo_adamw_layerwise", "apollo_adamw"),
)
#: The optimizers: their names, source files and states, and how many lists of a parameter group's size a step
#: allocates.
_SCHEDULE_FREE: tuple[tuple[OptimizerName, str, tuple[str, ...], int], ...] = (
    ("schedule_free_adamw", "adamw", ("z", "exp_avg_sq"), 1),
    ("schedule_free_sgd", "sgd", ("z",), 0),
    ("schedule_free_radam", "radam", ("z", "exp_avg_sq"), 1),
)

OPTIMIZERS: dict[str, Optimizer] = {
    optimizer.name: optimizer
    for optimizer in (
        _ADAMW_TORCH,
        Optimizer(
            name="adamw_torch_fused", names=_ADAM, storage="parameter", step_on_device=True, source=f"{_TORCH}/adam.py"
        ),
        Optimizer(name="adamw_8bit", names=_BNB, storage="8bit", source=_BITSANDBYTES),
        Optimizer(name="adamw_bnb_8bit", names=_BNB, storage="8bit", source=_BITSANDBYTES),
        Optimizer(name="paged_adamw_8bit", names=_BNB, storage="8bit", paged=True, source=_BITSANDBYTES),
        Optimizer(name="paged_adamw_32bit", names=_BNB, storage="float32", paged=True, source=_BITSANDBYTES),
        Optimizer(name="sgd", names=(), storage="parameter", source=f"{_TORCH}/sgd.py"),
        Optimizer(name="adafactor", names=(), storage="factored", source="transformers/optimization.py, Adafactor"),
        Optimizer(name="lion_8bit", names=_BNB[:1], storage="8bit", source=_BITSANDBYTES),
        Optimizer(name="paged_lion_8bit", names=_BNB[:1], storage="8bit", paged=True, source=_BITSANDBYTES),
        Optimizer(name="lion_32bit", names=_BNB[:1], storage="float32", source=_BITSANDBYTES),
        Optimizer(name="paged_lion_32bit", names=_BNB[:1], storage="float32", paged=True, source=_BITSANDBYTES),
        Optimizer(
            name="adagrad",
            names=("sum",),
            storage="parameter",
            temporaries=2,
            early=True,
            source=f"{_TORCH}/adagrad.py",
        ),
        Optimizer(
            name="rmsprop", names=("square_avg",), storage="parameter", temporaries=1, source=f"{_TORCH}/rmsprop.py"
        ),
        *(
            Optimizer(
                name=name,
                names=_ADAM,
                storage=storage,
                package="torchao",
                assumptions=(COMPILED,),
                group_tensors=("lr", "initial_lr", "base_lrs", "last_lr"),
                on_one_gpu=True,
                updates_shards=True,
                source="torchao/optim/adam.py and transformers/trainer_optimizer.py, _get_torchao_optimizer",
            )
            for name, storage in _TORCHAO
        ),
        Optimizer(
            name="muon",
            names=("momentum_buffer",),
            storage="parameter",
            on_one_gpu=True,
            refuses_fsdp=_MUON_GATHERS,
            refuses_zero=_NO_MATRICES,
            optim_has_it=False,
            assumptions=(
                "torch.optim.Muon updates matrices but those of embeddings and the output head, and AdamW the rest.",
            ),
            others=_ADAMW_TORCH,
            source=f"{_TORCH}/_muon.py",
        ),
        *(
            Optimizer(
                name=name,
                names=names,
                storage="parameter",
                package="schedulefree",
                temporaries=temporaries,
                keeps_temporaries=True,
                on_one_gpu=True,
                updates_shards=True,
                source=f"schedulefree/{file}_schedulefree.py",
            )
            for name, file, names, temporaries in _SCHEDULE_FREE
        ),
        Optimizer(
            name="galore_adamw",
            names=_ADAM,
            storage="parameter",
            projects="svd",
            others=Optimizer(name="galore_adamw", names=_ADAM, storage="parameter", source=_GALORE),
            package="galore-torch",
            assumptions=(RENEWED, DECOMPOSED),
            on_one_gpu=True,
            refuses_fsdp=_GALORE_GATHERS,
            source=_GALORE,
        ),
        Optimizer(
            name="galore_adafactor",
            names=(),
            storage="factored",
            projects="svd",
            others=Optimizer(name="galore_adafactor", names=(), storage="factored", source=_GALORE),
            package="galore-torch",
            assumptions=(RENEWED, DECOMPOSED),
            on_one_gpu=True,
            refuses_fsdp=_MIXED,
            source=_GALORE,
        ),
        Optimizer(
            name="apollo_adamw",
            names=_ADAM,
            storage="parameter",
            scalars=(("scaled_grad", "parameter"),),
            projects="random",
            others=Optimizer(name="apollo_adamw", names=_ADAM, storage="parameter", source=_APOLLO),
            package="apollo-torch",
            assumptions=(RENEWED,),
            on_one_gpu=True,
            refuses_fsdp=_MIXED,
            source=_APOLLO,
        ),
        Optimizer(
            name="galore_adamw_8bit_layerwise",
            names=_BNB,
            storage="8bit",
            projects="svd",
            scalars=_UNORM,
            others=Optimizer(
                name="galore_adamw_8bit_layerwise", names=_BNB, storage="8bit", scalars=_UNORM, source=_GALORE_8BIT
            ),
            package="galore-torch",
            assumptions=(RENEWED, DECOMPOSED, UNCLIPPED),
            in_backward=True,
            layerwise=True,
            on_one_gpu=True,
            refuses_fsdp=_NO_LAYERS,
            refuses_ddp=_NO_LAYERS,
            source=_GALORE_8BIT,
        ),
        Optimizer(
            name="lomo",
            names=(),
            storage="parameter",
            package="lomo-optim",
            assumptions=(UNCLIPPED,),
            in_backward=True,
            on_one_gpu=True,
            refuses_fsdp=_NO_HOOKS,
            refuses_ddp=_BEFORE_REDUCTION,
            source="lomo_optim/lomo.py",
        ),
        Optimizer(
            name="adalomo",
            names=(),
            storage="adalomo",
            package="lomo-optim",
            assumptions=(UNCLIPPED,),
            in_backward=True,
            early=True,
            for_frozen=True,
            on_one_gpu=True,
            refuses_fsdp=_NO_HOOKS,
            refuses_ddp=_BEFORE_REDUCTION,
            source="lomo_optim/adalomo.py",
        ),
        Optimizer(
            name="grokadamw",
            names=(*_ADAM, "grok_ema"),
            storage="host",
            package="grokadamw",
            assumptions=(ON_HOST,),
            on_one_gpu=True,
            refuses_fsdp=_MIXED,
            source="grokadamw/grokadamw.py",
        ),
        Optimizer(
            name="stable_adamw",
            names=_ADAM,
            storage="parameter",
            package="torch-optimi",
            scalars=(("eps_sq", "parameter"), ("mean_square", "float32")),
            in_half=("kahan_comp",),
            assumptions=("optimi's Triton kernels update parameters in place; this is from their source, not traced.",),
            in_full=(("kahan_comp", "uint8"),),
            on_one_gpu=True,
            updates_shards=True,
            source="optimi/stableadamw.py, with its Triton kernels",
        ),
        Optimizer(
            name="lorafa",
            names=_ADAM,
            storage="parameter",
            on_one_gpu=True,
            refuses_fsdp=_MIXED,
            optim_has_it=False,
            assumptions=(WITHOUT_A, PSEUDOINVERSE),
            source="peft/optimizers/lorafa.py",
        ),
    )
}


def _layerwise(name: OptimizerName, of: Optimizer) -> Optimizer:
    """Return an optimizer for each parameter, which updates it as soon as its gradient is ready.

    Source: transformers/trainer_optimizer.py, _setup_low_rank_optimizer.
    """
    others = None if of.others is None else replace(of.others, name=name)
    assumptions = (*of.assumptions, UNCLIPPED)
    return replace(
        of,
        name=name,
        others=others,
        assumptions=assumptions,
        in_backward=True,
        layerwise=True,
        refuses_ddp=_NO_LAYERS,
        refuses_fsdp=_NO_LAYERS,
    )


OPTIMIZERS |= {name: _layerwise(name, OPTIMIZERS[of]) for name, of in _LAYERWISE}

if set(OPTIMIZERS) != set(get_args(OptimizerName)):
    raise AssertionError("every optimizer that a request may name has its entry")

#: The optimizers that a Trainer has.
OF_TRAINERS: dict[str, OptimizerName] = {
    name: optimizer.name for name, optimizer in OPTIMIZERS.items() if optimizer.optim_has_it
}


def updates_in_backward(training: Training) -> bool:
    """Return whether a run updates each parameter in the backward pass and frees its gradient."""
    return training.optimizer_in_bwd or OPTIMIZERS[training.optimizer].in_backward
