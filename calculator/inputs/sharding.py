"""How a run on several GPUs is sharded: the request's fields for DDP, FSDP2 and DeepSpeed's ZeRO."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from calculator.common.errors import PlanError, Problem
from calculator.inputs import deepspeed_keys
from calculator.inputs.settings import parse, setting

if TYPE_CHECKING:
    from collections.abc import Iterator

ShardingName = Literal["none", "ddp", "zero1", "zero2", "zero3", "fsdp"]
QuantStorage = Literal["uint8", "float16", "bfloat16", "float32"]

#: The shardings that an estimate models. It refuses others.
MODELED: frozenset[ShardingName] = frozenset({"none", "ddp", "zero1", "zero2", "zero3", "fsdp"})

#: An integer, or `auto`, for which transformers derives the value from the model's hidden size.
OrAuto = int | Literal["auto"]

#: The stage of ZeRO by the name of the sharding.
STAGES: dict[str, int] = {"zero1": 1, "zero2": 2, "zero3": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class DDPConfig:
    """The arguments of `DistributedDataParallel`."""

    gradient_as_bucket_view: bool = setting(
        False,
        label="Gradients as bucket views",
        help="Make gradients views of DDP's buckets (gradient_as_bucket_view).",
    )
    find_unused_parameters: bool = setting(
        False,
        label="Find unused parameters",
        help="Search each graph for parameters without a gradient (find_unused_parameters of DDP).",
    )
    static_graph: bool = setting(
        False, label="Static graph", help="Assume that every step runs the same graph (static_graph of DDP)."
    )
    bucket_cap_mb: int = setting(
        25,
        label="Bucket size",
        help="The size at which DDP closes a gradient bucket.",
        minimum=1,
        maximum=1_000_000,
        unit="MiB",
    )

    @property
    def copies_outputs(self) -> bool:
        """Whether DDP copies the model's outputs, which it does to search the graph from them."""
        return self.find_unused_parameters and not self.static_graph


@dataclass(frozen=True, slots=True, kw_only=True)
class FSDPConfig:
    """The keys of `TrainingArguments.fsdp_config` that change FSDP2's memory."""

    reshard_after_forward: bool = setting(
        True, label="Reshard after forward", help="Free a unit's gathered weights after its forward pass."
    )
    cpu_offload: bool = setting(
        False,
        label="CPU offload",
        help="Keep shards, gradients and optimizer states in host memory, and update them there.",
    )
    cpu_ram_efficient_loading: bool = setting(
        False,
        label="Load by broadcasts",
        help="The first process broadcasts one whole weight after another, and each GPU keeps its shard, instead of "
        "sharding a unit at a time (cpu_ram_efficient_loading). It changes only the loading of the model, and not "
        "that of 4-bit weights. The default of transformers is false; accelerate launch and its configuration "
        "files set true.",
    )
    transformer_layer_cls_to_wrap: tuple[str, ...] | None = setting(
        None,
        label="Classes of units",
        help="The names of the layer classes whose modules are units; null means the model's _no_split_modules. Some"
        " models name classes there that they do not contain, and accelerate fails unless this is set.",
        example=["Qwen3_5DecoderLayer"],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Offload:
    """Where DeepSpeed stores optimizer states (`offload_optimizer`) or weights (`offload_param`)."""

    OTHER_KEYS: ClassVar[dict[str, str]] = deepspeed_keys.OF_NVME

    device: Literal["none", "cpu"] = setting("none", label="Offload device", help="none, or cpu for host memory.")
    pin_memory: bool = setting(True, label="Pinned memory", help="Whether the host memory is page-locked.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroOptimization:
    """The `zero_optimization` object of a DeepSpeed config, with DeepSpeed's defaults.

    References:
        deepspeed/runtime/zero/config.py, `DeepSpeedZeroConfig`.
    """

    OTHER_KEYS: ClassVar[dict[str, str]] = deepspeed_keys.OF_ZERO

    stage: int | None = setting(None, label="Stage", help="ZeRO's stage.", minimum=1, maximum=3, form=False)
    contiguous_gradients: bool = setting(
        True, label="Contiguous gradients", help="Copy gradients into one buffer as they are produced.", form=False
    )
    reduce_scatter: bool = setting(True, label="Reduce-scatter", help="Reduce each gradient to its owner only.")
    reduce_bucket_size: OrAuto = setting(
        500_000_000,
        label="Reduce bucket",
        help="Elements reduced at a time, or auto for hidden_size².",
        minimum=1,
        maximum=1 << 40,
        unit="elements",
    )
    allgather_partitions: bool = setting(
        True,
        label="All-gather partitions",
        help="Gather updated weights by all-gather instead of broadcasts.",
        form=False,
    )
    allgather_bucket_size: int = setting(
        500_000_000,
        label="All-gather bucket",
        help="Elements gathered at a time.",
        minimum=1,
        unit="elements",
        form=False,
    )
    overlap_comm: bool | None = setting(
        None, label="Overlap communication", help="Reduce during the backward pass; null is true in stage 3 only."
    )
    round_robin_gradients: bool = setting(
        False, label="Round-robin gradients", help="Deal gradients to the ranks in turn (stages 1 and 2)."
    )
    sub_group_size: int = setting(
        1_000_000_000,
        label="Sub-group",
        help="Elements updated at a time in stage 3.",
        minimum=0,
        unit="elements",
        form=False,
    )
    stage3_prefetch_bucket_size: OrAuto = setting(
        50_000_000,
        label="Prefetch bucket",
        help="Elements fetched ahead of use.",
        minimum=0,
        unit="elements",
        form=False,
    )
    stage3_param_persistence_threshold: OrAuto = setting(
        100_000,
        label="Persistence threshold",
        help="Parameters with fewer elements are not partitioned.",
        minimum=0,
        unit="elements",
        form=False,
    )
    stage3_max_live_parameters: int = setting(
        1_000_000_000,
        label="Live parameters",
        help="The most elements gathered at once.",
        minimum=0,
        unit="elements",
        form=False,
    )
    stage3_max_reuse_distance: int = setting(
        1_000_000_000,
        label="Reuse distance",
        help="A parameter stays gathered if it is used again within this many elements.",
        minimum=0,
        unit="elements",
        form=False,
    )
    stage3_gather_16bit_weights_on_model_save: bool = setting(
        False, label="Gather on save", help="Gather the weights when the model is saved.", form=False
    )
    offload_optimizer: Offload | None = setting(
        None,
        label="Offload of the optimizer",
        help="Keep masters and optimizer states in host memory, and update them there.",
        example={"device": "cpu"},
        form=False,
    )
    offload_param: Offload | None = setting(
        None,
        label="Offload of the weights",
        help="Keep stage 3's partitions of the weights in host memory.",
        example={"device": "cpu"},
        form=False,
    )

    def resolved(self, name: str, hidden_size: int) -> int:
        """Return a size in elements, with transformers' value for `auto`.

        References:
            transformers/integrations/deepspeed.py, `trainer_config_finalize`.
        """
        auto = {
            "reduce_bucket_size": hidden_size * hidden_size,
            "stage3_prefetch_bucket_size": int(0.9 * hidden_size * hidden_size),
            "stage3_param_persistence_threshold": 10 * hidden_size,
        }
        value = getattr(self, name)
        return auto[name] if value == "auto" else int(value)

    @staticmethod
    def respelled(value: dict[str, Any]) -> dict[str, Any]:
        """Return the object without DeepSpeed's other spellings of names and numbers."""
        return deepspeed_keys.respelled(value)


def offloads_optimizer(zero: ZeroOptimization) -> bool:
    """Return whether master weights and optimizer states are in host memory."""
    return zero.offload_optimizer is not None and zero.offload_optimizer.device == "cpu"


#: The settings of a config without the object zero_optimization.
_DEFAULT_ZERO = ZeroOptimization()


def pins(zero: ZeroOptimization) -> bool:
    """Return whether any offload uses page-locked host memory."""
    offloads = [offload for offload in (zero.offload_optimizer, zero.offload_param) if offload is not None]
    return any(offload.device == "cpu" and offload.pin_memory for offload in offloads)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepSpeedConfig:
    """The keys of a DeepSpeed config that change memory. `Training` has the others."""

    OTHER_KEYS: ClassVar[dict[str, str]] = deepspeed_keys.OF_CONFIG

    zero_optimization: ZeroOptimization | None = setting(
        None,
        label="ZeRO",
        help="The object zero_optimization of a DeepSpeed config.",
        example={"overlap_comm": True},
    )
    zero3_init_flag: bool | None = setting(
        None,
        label="Build under zero.Init",
        help="Whether transformers builds the model under deepspeed.zero.Init, as it does if TrainingArguments or the"
        " Accelerator exist before from_pretrained (accelerate's zero3_init_flag): DeepSpeed then casts no adapters."
        " Only in stage 3; a 4-bit model is not built so. null is true with a trainer, and false for the reference"
        " step, whose model is loaded before.",
        form=False,
    )

    @property
    def zero(self) -> ZeroOptimization:
        """The settings of ZeRO, with DeepSpeed's defaults."""
        return self.zero_optimization or _DEFAULT_ZERO

    def builds_partitioned(self, trainer: str | None) -> bool:
        """Return whether the model is built in deepspeed.zero.Init. Without a setting, only a trainer does so."""
        return trainer is not None if self.zero3_init_flag is None else self.zero3_init_flag


#: The settings of a run without a DeepSpeed config of its own.
DEFAULT_DEEPSPEED = DeepSpeedConfig()


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """The field of a 4-bit method that only matters for sharding."""

    quant_storage: QuantStorage = setting(
        "uint8",
        label="4-bit storage type",
        help="The data type of the tensors that contain the packed 4-bit weights (bnb_4bit_quant_storage). FSDP shards "
        "only tensors of a float type.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharding:
    """The number of GPUs of a run, and how the run is sharded over them."""

    name: ShardingName = "none"
    count: int = 1
    ddp: DDPConfig = field(default_factory=DDPConfig)
    fsdp_config: FSDPConfig = field(default_factory=FSDPConfig)
    zero_optimization: ZeroOptimization = field(default_factory=ZeroOptimization)
    zero3_init_flag: bool = False
    quant_storage: QuantStorage = "uint8"

    @property
    def stage(self) -> int:
        """The stage of ZeRO. 0 without ZeRO."""
        return STAGES.get(self.name, 0)

    @property
    def offloads(self) -> bool:
        """Whether any state is in host memory."""
        zero = self.zero_optimization
        offloads = [offload.device for offload in (zero.offload_optimizer, zero.offload_param) if offload is not None]
        return self.fsdp_config.cpu_offload or "cpu" in offloads


def parse_sharding(body: dict[str, Any], name: ShardingName, count: int) -> Sharding:
    """Parse the fields of a request that describe its sharding.

    Raises:
        PlanError: with every problem found, each at its dotted path.
    """
    training, method = (_object(body, key) for key in ("training", "method"))
    problems: list[Problem] = [*_contradictions(name, count, training)]

    def checked(cls: Any, value: Any, loc: str) -> Any:
        try:
            return parse(cls, value, loc)
        except PlanError as error:
            problems.extend(error.problems)
            return cls()

    storage = checked(Storage, {key: method[key] for key in ("quant_storage",) if key in method}, "method")
    if "quant_storage" in method and method.get("name") != "qlora":
        reason = "only qlora stores weights in 4 bits: leave it out"
        problems.append(Problem(loc="method.quant_storage", msg=reason, input=method["quant_storage"]))
    deepspeed = DeepSpeedConfig()
    if "deepspeed" in training:
        try:
            deepspeed = parse_deepspeed(training["deepspeed"], STAGES.get(name))
        except PlanError as error:
            problems.extend(error.problems)
    sharding = Sharding(
        name=name,
        count=count,
        ddp=checked(DDPConfig, training.get("ddp") or {}, "training.ddp"),
        fsdp_config=checked(FSDPConfig, training.get("fsdp_config") or {}, "training.fsdp_config"),
        zero_optimization=deepspeed.zero,
        zero3_init_flag=deepspeed.builds_partitioned(training.get("trainer")),
        quant_storage=storage.quant_storage,
    )
    if problems:
        raise PlanError(*problems)
    return sharding


def _object(body: dict[str, Any], key: str) -> dict[str, Any]:
    value = body.get(key, {})
    return value if isinstance(value, dict) else {}


#: The shardings that each object of `training` configures.
OWNERS: dict[str, tuple[ShardingName, ...]] = {
    "ddp": ("ddp",),
    "fsdp_config": ("fsdp",),
    "deepspeed": ("zero1", "zero2", "zero3"),
}


def _contradictions(name: ShardingName, count: int, training: dict[str, Any]) -> Iterator[Problem]:
    if count > 1 and name == "none":
        reason = f"{count} GPUs need a sharding: set ddp, zero1, zero2, zero3 or fsdp"
        yield Problem(loc="device.sharding", msg=reason, input=name)
    if count == 1 and name != "none":
        yield Problem(loc="device.count", msg=f"{name} needs 2 GPUs or more", input=count)
    for key, owners in OWNERS.items():
        if key in training and name not in owners:
            reason = f"configures {' or '.join(owners)}, but device.sharding is {name}: leave it out"
            yield Problem(loc=f"training.{key}", msg=reason, input=training[key])


def parse_deepspeed(body: Any, stage: int | None) -> DeepSpeedConfig:
    """Parse `training.deepspeed`, the config that DeepSpeed reads, for a stage of ZeRO.

    Raises:
        PlanError: with every problem found, each at its dotted path.
    """
    deepspeed = parse(DeepSpeedConfig, body, "training.deepspeed")
    problems = [*stage_problems(deepspeed.zero, stage)]
    if problems:
        raise PlanError(*problems)
    return deepspeed


def stage_problems(zero: ZeroOptimization, stage: int | None) -> Iterator[Problem]:
    """Yield the settings that contradict the stage of `device.sharding`."""
    loc = "training.deepspeed.zero_optimization"
    if zero.stage is not None and stage is not None and zero.stage != stage:
        yield Problem(loc=f"{loc}.stage", msg=f"must be {stage}, the stage of device.sharding", input=zero.stage)
    if (zero.offload_param or Offload()).device != "none" and stage != 3:
        yield Problem(
            loc=f"{loc}.offload_param", msg="needs stage 3 (device.sharding zero3): leave it out", input="cpu"
        )
