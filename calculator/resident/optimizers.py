"""Optimizers by their Hugging Face names: their states and the temporaries of a step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Literal, get_args

from calculator.architecture.dimension import Shape, elements
from calculator.common.dtype import DType
from calculator.common.names import OptimizerName
from calculator.resident import torchao

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from calculator.inputs.training import Training
    from calculator.resident.projection import Projection

_TORCH = "torch/optim"
_BITSANDBYTES = "bitsandbytes/optim/optimizer.py"

#: Parameters of fewer elements keep 32-bit states. Source: bitsandbytes/optim/optimizer.py, min_8bit_size.
SMALLEST_8BIT = 4096
#: Elements that share one block constant. Source: bitsandbytes/optim/optimizer.py, init_state.
BLOCKSIZE_8BIT = 256
#: States with at least this many elements are in managed memory.
#: Source: bitsandbytes/optim/optimizer.py, get_state_buffer.
SMALLEST_PAGED = 100_000

#: How states are stored.
Storage = Literal["parameter", "float32", "8bit", "factored", "adalomo", "torchao_8bit", "torchao_4bit", "host"]

#: A state's name, shape and dtype.
State = tuple[str, Shape, DType]


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimizer:
    """The states that an optimizer has for each parameter, and what a step allocates."""

    name: OptimizerName
    #: The names of its full-size states.
    names: tuple[str, ...]
    #: States in the parameter's dtype, in float32, in blocks of 8 bits, factored into rows and columns (Adafactor,
    #: AdaLOMO), in torchao's blocks of 8 or 4 bits, or in host memory in the parameter's dtype.
    storage: Storage
    source: str
    #: The PyPI package that has it, where it is not one that every run needs.
    package: str = ""
    paged: bool = False
    #: How many copies of a whole dtype group a foreach step allocates.
    temporaries: int = 0
    step_on_device: bool = False
    #: Whether the states are created with the optimizer, not at its first step.
    early: bool = False
    #: Whether the temporaries of a parameter group stay alive until those of the next one exist.
    keeps_temporaries: bool = False
    #: The states that each parameter has besides: their names and dtypes, or "parameter" for its dtype.
    scalars: tuple[tuple[str, DType | Literal["parameter"]], ...] = ()
    #: The further full-size state of parameters in half precision, and the number that those in float32 have instead.
    in_half: tuple[str, ...] = ()
    in_full: tuple[tuple[str, DType], ...] = ()
    #: The numbers of each parameter group that a Trainer and its learning rate scheduler keep on the device.
    of_groups: tuple[str, ...] = ()
    #: What the answer's assumptions say about it.
    assumptions: tuple[str, ...] = ()
    #: Whether it updates each parameter in the backward pass and frees its gradient.
    in_backward: bool = False
    #: Whether it has an optimizer for each parameter, made with the others when the training begins.
    layerwise: bool = False
    #: Whether parameters that are not trained have states too.
    for_frozen: bool = False
    #: Whether it is modelled on one GPU, and under DDP unless `refuses_ddp` says why not, but under no other sharding.
    on_one_gpu: bool = False
    #: Why it does not run under DDP; empty if it does, with the same states on every rank.
    refuses_ddp: str = ""
    #: Whether `TrainingArguments.optim` has it.
    of_trainer: bool = True
    #: What a parameter has if it is none that the optimizer itself updates; None if it updates all.
    others: Optimizer | None = None
    #: The names of the parameters that it updates itself; read only if it has others.
    targets: frozenset[str] = frozenset()
    #: Whether it projects the gradients of these, onto singular vectors or at random.
    projects: Literal["", "svd", "random"] = ""
    #: How it projects them, as a run sets it; None for an optimizer that projects none.
    projection: Projection | None = None

    @property
    def is_like_parameters(self) -> bool:
        """Whether all states have the shape and dtype of their parameter in the step."""
        plain = not (self.step_on_device or self.early or self.scalars or self.in_half or self.others)
        plain = plain and not self.for_frozen
        return self.storage == "parameter" and plain

    @property
    def in_32_bits(self) -> Optimizer:
        """The optimizer with 32-bit states, as bitsandbytes' GlobalOptimManager overrides 8-bit ones."""
        return replace(self, storage="float32") if self.storage == "8bit" else self

    def of(self, name: str) -> Optimizer:
        """The optimizer that updates a parameter."""
        return self if self.others is None or name in self.targets else self.others

    def projection_of(self, name: str) -> Projection | None:
        """How it projects the gradient of a parameter; None if it doesn't."""
        return self.projection if name in self.targets else None

    def shape_of_states(self, name: str, shape: Shape) -> Shape:
        """The shape of a parameter's states: its own, or that of its projected gradient."""
        projection = self.projection_of(name)
        return shape if projection is None else projection.projected(shape)

    def states(self, shape: Shape, dtype: DType) -> list[State]:
        """The states of one parameter that the caching allocator serves."""
        if self.storage == "host":
            return []
        if self.storage == "adalomo":
            return [*_rows_and_columns(shape)]
        step: list[State] = [("step", (), "float32")] if self.step_on_device else []
        if self.projection is not None:
            return self._projected(self.projection, shape, dtype)
        scalars = (*self.scalars, *(self.in_full if dtype == "float32" else ()))
        step += [(name, (), dtype if kind == "parameter" else kind) for name, kind in scalars]
        if self.storage == "factored":
            return [*_factored(shape), *step]
        if self.storage in ("torchao_8bit", "torchao_4bit"):
            return [*torchao.states(self.names, shape, dtype, bits=8 if self.storage == "torchao_8bit" else 4)]
        if self.storage == "8bit" and elements(shape) >= SMALLEST_8BIT:
            return [*self._in_blocks(shape), *step]
        if self._is_paged(shape):
            return step
        stored: DType = dtype if self.storage == "parameter" else "float32"
        names = self.names if dtype == "float32" else (*self.names, *self.in_half)
        return [(name, shape, stored) for name in names] + step

    def _projected(self, projection: Projection, shape: Shape, dtype: DType) -> list[State]:
        """The projection, and the states of the projected gradient. Adafactor's gradients are in float32."""
        of_gradient = "float32" if self.storage == "factored" else dtype
        kept: State = ("projector", projection.kept(shape, of_gradient), of_gradient)
        return [kept, *replace(self, projection=None).states(projection.projected(shape), dtype)]

    def shared_states(self, shapes: Iterable[Shape]) -> Iterator[State]:
        """The states that all parameters share: code books of 8-bit states."""
        if self.storage == "8bit" and any(elements(shape) >= SMALLEST_8BIT for shape in shapes):
            yield from ((f"qmap of {name}", (256,), "float32") for name in self.names)

    def _in_blocks(self, shape: Shape) -> Iterator[State]:
        blocks = ceil(elements(shape) / BLOCKSIZE_8BIT)
        for name in self.names:
            if not self._is_paged(shape):
                yield name, shape, "uint8"
            yield f"absmax of {name}", (blocks,), "float32"

    def _is_paged(self, shape: Shape) -> bool:
        return self.paged and elements(shape) >= SMALLEST_PAGED


def _factored(shape: Shape) -> Iterator[State]:
    """Adafactor's second moment (Shazeer & Stern 2018): a row and a column for a matrix, full size for a vector.

    The parameter's root mean square is a state too. Source: transformers/optimization.py, Adafactor.step.
    """
    yield "RMS", (), "float32"
    if len(shape) < 2:
        yield "exp_avg_sq", shape, "float32"
    else:
        yield "exp_avg_sq_row", shape[:-1], "float32"
        yield "exp_avg_sq_col", (*shape[:-2], shape[-1]), "float32"


def _rows_and_columns(shape: Shape) -> Iterator[State]:
    """AdaLOMO's second moment: the first two dimensions of a matrix, or a vector. Source: lomo_optim/adalomo.py."""
    if len(shape) < 2:
        yield "exp_avg_sq", shape, "float32"
    else:
        yield "exp_avg_sq_row", shape[:1], "float32"
        yield "exp_avg_sq_col", shape[1:2], "float32"


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
    "The optimizer's step is one that makes the projections anew, as the first does and then every update_proj_gap-th."
)
DECOMPOSED = (
    "The workspace of cuSOLVER's singular value decomposition (gesvdj) is not known without a CUDA device and not"
    " counted: it comes on top in the optimizer's step."
)
ON_HOST = (
    "GrokAdamW keeps its three states of each parameter in host memory, and copies those of one parameter to the GPU in"
    " turn."
)
#: Source: lomo_optim/lomo.py and adalomo.py, fuse_update; only fuse_update_zero3 reduces gradients.
_BEFORE_REDUCTION = "its hooks update each weight with this GPU's gradient, before DDP has reduced it"
#: Source: transformers/trainer_optimizer.py, _setup_low_rank_optimizer.
_NO_LAYERS_UNDER_DDP = "transformers raises NotImplementedError for layerwise optimizers under DDP"
UNCLIPPED = (
    "Gradients are freed as soon as their parameters are updated, so none is left to clip: max_grad_norm does nothing."
)
_GALORE_8BIT = "galore_torch/adamw8bit.py and galore_projector.py, over bitsandbytes/optim/optimizer.py"
#: GaLore gives its percentile_clipping of 100 as max_unorm to bitsandbytes since 0.50, which keeps a norm for that.
_UNORM: tuple[tuple[str, DType | Literal["parameter"]], ...] = (("unorm_vec", "float32"),)
_LAYERWISE: tuple[tuple[OptimizerName, OptimizerName], ...] = (
    ("galore_adamw_layerwise", "galore_adamw"),
    ("apollo_adamw_layerwise", "apollo_adamw"),
)
#: Names, files, states, and how many lists of a parameter group's size a step allocates.
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
                of_groups=("lr", "initial_lr", "base_lrs", "last_lr"),
                on_one_gpu=True,
                source="torchao/optim/adam.py and transformers/trainer_optimizer.py, _get_torchao_optimizer",
            )
            for name, storage in _TORCHAO
        ),
        Optimizer(
            name="muon",
            names=("momentum_buffer",),
            storage="parameter",
            on_one_gpu=True,
            of_trainer=False,
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
            refuses_ddp=_NO_LAYERS_UNDER_DDP,
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
            source="optimi/stableadamw.py, with its Triton kernels",
        ),
    )
}


def _layerwise(name: OptimizerName, of: Optimizer) -> Optimizer:
    """An optimizer for each parameter, which updates it as soon as its gradient is ready.

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
        refuses_ddp=_NO_LAYERS_UNDER_DDP,
    )


OPTIMIZERS |= {name: _layerwise(name, OPTIMIZERS[of]) for name, of in _LAYERWISE}

if set(OPTIMIZERS) != set(get_args(OptimizerName)):
    raise AssertionError("every optimizer that a request may name has its entry")

#: Those that a Trainer has, by themselves.
OF_TRAINERS: dict[str, OptimizerName] = {name: each.name for name, each in OPTIMIZERS.items() if each.of_trainer}


def updates_in_backward(training: Training) -> bool:
    """Whether a run updates each parameter in the backward pass and frees its gradient."""
    return training.optimizer_in_bwd or OPTIMIZERS[training.optimizer].in_backward
