"""The base class of LoRA and QLoRA, with the settings that they share, named and defaulted as in `peft.LoraConfig`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from calculator.architecture.per_model import per_model
from calculator.checkpoint.safetensors_file import SavedTensor
from calculator.inputs.by_name import DecimalsByName, WholeNumbersByName
from calculator.inputs.settings import setting
from calculator.methods import token_rows
from calculator.methods.layer_kinds import full_name
from calculator.methods.low_rank import layer, layers, merge, parameters, ranks, replication, tokens
from calculator.methods.low_rank.block_diagonal import BdLoraConfig  # noqa: TC001  `declared` evaluates annotations
from calculator.methods.low_rank.initialization import INSTEAD, Initialization, before_the_steps
from calculator.methods.low_rank.operations import NO_PRODUCT, dora_norms
from calculator.methods.low_rank.refusals import problems
from calculator.methods.low_rank.targets import FUSED_EXPERTS, converted
from calculator.methods.targeted import settings
from calculator.methods.targeted.method import TargetedMethod, TargetModules
from calculator.resident.quantization import Quantization

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.common.errors import Problem
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.bound_module import BoundModule
    from calculator.layers.context import Context
    from calculator.layers.expert_weights import Weights
    from calculator.methods.costs import MergeStep, OtherOperations
    from calculator.resident.module_spec import ModuleSpec
    from calculator.resident.tensor import ResidentTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank(TargetedMethod):
    """A low-rank update W₀ + (lora_alpha / r) · B·A (Hu et al. 2021, section 4.1)."""

    adaptable: ClassVar[tuple[str, ...]] = ("linear", "conv1d", "embedding")

    r: int = setting(8, label="Rank", help="The rank r of the update.", minimum=1, maximum=65_536, example=16)
    lora_alpha: float = setting(
        8, label="Alpha", help="The update is scaled by lora_alpha / r.", minimum=0, maximum=1e6, example=16
    )
    lora_dropout: float = setting(
        0.0, label="Dropout", help="Dropout on the input of the low-rank path.", minimum=0, maximum=0.99
    )
    target_modules: TargetModules = settings.target_modules()
    use_rslora: bool = setting(
        False, label="rsLoRA", help="Scale by lora_alpha / √r instead (Kalajdzievski 2023); memory is the same."
    )
    use_dora: bool = setting(
        False, label="DoRA", help="Train each output's magnitude separately from the direction (Liu et al. 2024)."
    )
    bias: Literal["none", "all", "lora_only"] = setting(
        "none", label="Train biases", help="Which biases of the base model are trained too."
    )
    modules_to_save: tuple[str, ...] | None = settings.modules_to_save()
    unfrozen_dtype: Literal["model", "float32"] = settings.unfrozen_dtype()
    exclude_modules: tuple[str, ...] | None = settings.exclude_modules()
    rank_pattern: WholeNumbersByName = setting(
        WholeNumbersByName(),
        label="Ranks of modules",
        help="Ranks of modules that differ from r, by the ends of their names or by regular expressions "
        "(rank_pattern).",
        minimum=1,
        maximum=65_536,
        example=WholeNumbersByName(down_proj=4),
    )
    alpha_pattern: DecimalsByName = setting(
        DecimalsByName(),
        label="Alphas of modules",
        help="Values of modules that differ from lora_alpha, by their names (alpha_pattern); memory is the same.",
        minimum=0,
        maximum=1e6,
        example=DecimalsByName(down_proj=8),
    )
    layers_to_transform: tuple[int, ...] | None = setting(
        None,
        label="Layers",
        help="Indices of the layers whose modules are adapted, from 0; null adapts all. Text can contain ranges: "
        "16-31.",
        example=(30, 31),
        empty="all",
    )
    layers_pattern: tuple[str, ...] | None = setting(
        None,
        label="Name of the layers",
        help="The name before the layer's index in module names, if the index is not the first number in them.",
        example=("layers",),
    )
    layer_replication: tuple[tuple[int, int], ...] | None = setting(
        None,
        label="Replicated layers",
        help="The layers that run, as ranges from a start to an end that is not included. A layer in several ranges "
        "has one copy of its weights, and LoRA weights of its own in each range.",
        example=[[0, 12], [8, 16]],
        empty="as the model",
    )
    init_lora_weights: bool | Initialization = setting(
        True,
        label="Initialization",
        help="Initialization of A and B. Only mica, which freezes B, changes a step's memory; some initializations "
        "read weights or data before training.",
        example="pissa",
        instead=INSTEAD,
    )
    eva_config: DecimalsByName | None = setting(
        None,
        label="EVA",
        help="rho of the initialization eva: the largest factor by which EVA increases a rank when it redistributes "
        "ranks (2 in PEFT). With 1, every module keeps its rank.",
        minimum=0,
        maximum=1e6,
        example=DecimalsByName(rho=1.0),
    )
    target_parameters: tuple[str, ...] | None = setting(
        None,
        label="Target parameters",
        help="Weights of fused experts to adapt, by the ends of parameters' names. Without target_modules, nothing"
        " else is adapted in families for which PEFT has no default.",
        example=("mlp.experts.gate_up_proj", "mlp.experts.down_proj"),
    )
    lora_bias: bool = setting(False, label="Bias of B", help="Add a trained bias to B.")
    use_bdlora: BdLoraConfig | None = setting(
        None,
        label="BD-LoRA",
        help="Make A or B of each target block-diagonal, as peft.BdLoraConfig does.",
        example={"target_modules_bd_a": ["o_proj"], "target_modules_bd_b": ["q_proj"], "nblocks": 2},
    )
    trainable_token_indices: tuple[int, ...] | None = setting(
        None,
        label="Trained tokens",
        help="Indices of tokens whose embeddings are trained too. Text can contain ranges: 128000-128009.",
        example=(128_000, 128_001),
        empty="none",
    )

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Sentences on the memory of the initialization before the first step."""
        return before_the_steps(self)

    def warnings(self, model: Model, training: Training) -> tuple[str, ...]:
        """Return names that PEFT ignores, and ranks that exceed a matrix's smaller side."""
        return (*TargetedMethod.warnings(self, model, training), *ranks.too_large(self, self.rank_of, model, training))

    @property
    def trains_biases(self) -> bool:
        """Whether `bias` selects any biases."""
        return self.bias != "none"

    def for_model(self, model: Model) -> Self:
        """Return the method with the names of fused experts as parameters, and the head of the model's task."""
        if not _changes_methods(model):
            return self
        changes = converted(self, model)
        return TargetedMethod.for_model(replace(self, **changes) if changes else self, model)

    @property
    def needs_modules(self) -> bool:
        """Whether modules must be adapted. They need not if parameters are adapted."""
        return not self.target_parameters

    def has_default(self, model: Model) -> bool:
        """Return whether PEFT has default names for the model's family. It has none if experts are fused."""
        return TargetedMethod.has_default(self, model) and model.model_type not in FUSED_EXPERTS

    @property
    def label_parts(self) -> tuple[str, ...]:
        """The rank and the targets."""
        return (self.rank_and_targets,)

    @property
    def rank_and_targets(self) -> str:
        """The rank, and the modules as far as a plan chooses them."""
        where = "every linear layer" if self.target_modules == "all-linear" else "attention"
        return f"r {self.r} on {where}"

    def quality_tier(self, parameters: int) -> int:
        """Return the best tier if every linear layer is adapted, else the next one."""
        return TargetedMethod.quality_tier(self, parameters) + (self.target_modules != "all-linear")

    def own_problems(self, model: Model, targets: dict[str, Module]) -> Iterator[Problem]:
        """Yield fused experts, and settings that exclude one another."""
        yield from problems(self, model, targets)

    def with_layers(self, model: Model) -> Model:
        """Return the model with a kind for each way in which layers are adapted."""
        if self.layer_replication:
            model = replication.with_replicated_layers(self.layer_replication, model)
        if self.layers_to_transform is not None or self.rank_pattern:
            model = layers.with_layers(self, model)
        return token_rows.tied(model, tokens.INSIDE) if self.trainable_token_indices else model

    @property
    def differs_between_layers(self) -> bool:
        """Whether layers are chosen, or a rank applies to one layer."""
        return self.layers_to_transform is not None or any(map(layers.names_layers, self.rank_pattern))

    def in_chosen_layers(self, path: str, module: Module) -> bool:
        """Return whether `layers_to_transform` selects the module's layer."""
        if self.layers_to_transform is None:
            return True
        name = full_name(path, module)
        return "*" in name or layers.is_transformed(self, name)

    def refused_names(self, model: Model) -> tuple[str, ...]:
        """Return the names of fused experts and of routers."""
        return (*FUSED_EXPERTS.get(model.model_type, ()), *TargetedMethod.refused_names(self, model))

    def forward(self, bound: BoundModule, x: Tensor) -> Tensor:
        """Return the output of the frozen module plus the update."""
        if self.trainable_token_indices and tokens.has(bound):
            return token_rows.product(bound, x, tokens.INSIDE)
        return (layer.forward if bound.tape.added is None else layer.listed_forward)(self, bound, x)

    def embedding_weight(self, bound: BoundModule) -> Tensor:
        """Return the table, with trained rows if it has any."""
        return token_rows.merged(bound, tokens.INSIDE) if tokens.has(bound) else bound.own["weight"]

    def embedding_forward(self, bound: BoundModule, ids: Tensor, rows: Tensor, scale: Tensor | None) -> Tensor:
        """Return the frozen rows plus the update. Rows of a table with trained rows are returned unchanged."""
        return rows if tokens.has(bound) else layer.embedding_forward(bound, ids, rows, scale)

    def expert_weights(self, context: Context, bound: BoundModule) -> Weights:
        """Return the weights of experts or of a router, with their updates if they are adapted."""
        if not bound.added:
            return bound.own
        if bound.module.kind != "experts":
            return parameters.FoldedMatrix(bound)
        path = full_name(bound.name, bound.module)
        return parameters.ExpertWeights(
            self, path, bound, transposed=parameters.is_transposed(context.model.model_type)
        )

    def rank_of(self, name: str) -> int:
        """Return the rank of a parameter's update."""
        return layers.rank(self, name)

    def is_scaled(self, name: str) -> bool:
        """Return whether a parameter's update is multiplied by a number other than 1."""
        key, r = layers.first_match(self.alpha_pattern, name), layers.rank(self, name)
        alpha = self.lora_alpha if key is None else self.alpha_pattern[key]
        return alpha != (sqrt(r) if self.use_rslora else r)

    def saved_name(self, name: str) -> str:
        """Return the name under which PEFT writes a parameter.

        If modules are wrapped several times, the inner ones are `base_layer`.
        """
        return TargetedMethod.saved_name(self, parameters.wrapped_name(self.target_parameters, name))

    def saved_again(self, parameters: Sequence[tuple[str, ResidentTensor]], model: Model) -> Iterator[SavedTensor]:
        """Yield the biases of a copied head with `bias` "all": those of both copies, whose names contain "bias".

        The copy of a head with several modules has the adapter's name in those of its modules.

        Source: peft/utils/save_and_load.py, get_peft_model_state_dict.
        """
        dtypes = {name: parameter.dtype for name, parameter in parameters}
        for name, parameter in parameters if self.bias == "all" else ():
            owner, copied, last = name.partition(".modules_to_save.")
            if not copied or "bias" not in last:
                continue
            head, nested, rest = (
                owner.partition(".") if owner.split(".")[0] in model.task.head_names else (owner, "", "")
            )
            copy, last_of_copy = ("modules_to_save.default", f"{rest}.{last}") if nested else ("modules_to_save", last)
            original_dtype = dtypes.get(f"{owner}.{last}", parameter.dtype)
            yield SavedTensor(f"base_model.model.{head}.{copy}.{last_of_copy}", parameter.shape, parameter.dtype)
            yield SavedTensor(
                f"base_model.model.{head}.original_module.{last_of_copy}", parameter.shape, original_dtype
            )

    def saves_frozen(self, tensor: ResidentTensor) -> bool:
        """Return whether it is a B that MiCA freezes."""
        return not tensor.base and tensor.name.endswith(("lora_B.weight", "lora_embedding_B"))

    @property
    def refuses_unmerged(self) -> str | None:
        """Why serving it without merging is refused: each pass copies the table, or updates whole parameters."""
        if self.target_parameters:
            return "what each pass reads and computes to add updates to all experts' weights is not counted"
        if self.layer_replication:
            return "passes through replicated layers are not modeled"
        return tokens.REFUSES_UNMERGED if self.trainable_token_indices else self.facts.refuses_unmerged

    def is_matmul(self, tensor: ResidentTensor) -> bool:
        """Return whether it is a factor of a product. The rows of embeddings are looked up instead."""
        return TargetedMethod.is_matmul(self, tensor) and not tensor.name.endswith(token_rows.DELTA)

    def is_read(self, tensor: ResidentTensor) -> bool:
        """Return whether each generated token reads A or B in full. An embedding's A is looked up instead."""
        return not tensor.name.endswith(NO_PRODUCT)

    def other_operations(self, added: Sequence[ResidentTensor], batch: int) -> OtherOperations:
        """Return the operations of DoRA's norms."""
        return dora_norms(added, batch)

    @property
    def refuses_merging(self) -> str | None:
        """Return why replicated layers are not merged."""
        return "PEFT would add the updates of replicated layers to the same weights" if self.layer_replication else None

    @property
    def rank_multiple(self) -> int:
        """The number of blocks of BD-LoRA."""
        return self.use_bdlora.nblocks if self.use_bdlora else 1

    def merge_step(self, module: Module, module_spec: ModuleSpec) -> MergeStep | None:
        """Return the allocations of adding B·A to the weight.

        Merging with DoRA, a bias, tokens, or a format other than bitsandbytes' 4 bits is not modeled.
        """
        other = module_spec.quantization is not None and not isinstance(module_spec.quantization, Quantization)
        unknown = (
            self.use_dora
            or self.use_bdlora
            or self.lora_bias
            or other
            or self.trainable_token_indices
            or self.layer_replication
        )
        return None if unknown else merge.merge_step(module, module_spec)


@per_model
def _changes_methods(model: Model) -> bool:
    """Return whether PEFT changes the names that a method gives: those of fused experts, or the head of a task."""
    return model.model_type in FUSED_EXPERTS or model.task.trains_head
