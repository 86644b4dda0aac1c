"""The memory of a training step, in an answer."""

from typing import ClassVar

from app.api.answers.answer import Answer, described
from app.api.answers.memory_interval import MemoryIntervalAnswer
from calculator.common.names import ComponentName, PhaseName


class Row(Answer):
    """Tensors of one kind that are alive at the peak."""

    varying: ClassVar[tuple[str, ...]] = ("bytes", "substituted")

    name: str = described("What the tensors are.", "logits")
    count: int = described("How many tensors of this kind there are.", 1)
    bytes: int = described("Their total size; each tensor is rounded up to a multiple of 512 bytes.", 525_336_576)
    formula: str = described("The shape in named dimensions, times the bytes per element.", "B × S × vocab_size × 2")
    substituted: str = described("The formula with numbers.", "1 × 2,048 × 128,256 × 2")
    dtype: str = described("The data type.", "bfloat16")
    source: str = described("Source of the formula.", "torch.nn.Linear")


class Component(Answer):
    """A subtotal of the peak."""

    keeps_json: ClassVar[bool] = True

    name: ComponentName = described("What the memory is used for.", "base_weights")
    bytes: int = described("Bytes alive at the peak.", 16_060_522_496)
    formula: str = described("The formula for the bytes.", "parameters × 2")
    substituted: str = described("The formula with numbers.", "8,030,261,248 × 2")
    source: str = described("Source of the formula.", "torch.dtype.itemsize")
    rows: tuple[Row, ...] = described(
        "The tensors that add up to this component.",
        [
            {
                "name": "logits",
                "count": 1,
                "bytes": 525_336_576,
                "formula": "B × S × vocab_size × 2",
                "substituted": "1 × 2,048 × 128,256 × 2",
                "dtype": "bfloat16",
                "source": "torch.nn.Linear",
            }
        ],
    )


class Phase(Answer):
    """A phase of the training step."""

    name: PhaseName = described("The phase.", "backward")
    peak_bytes: int = described("The most bytes alive during the phase.", 9_341_251_584)


class Moment(Answer):
    """A point on the timeline of the step."""

    column: ClassVar[str] = "bytes"

    phase: PhaseName = described("The phase of the step.", "forward")
    operation: str = described("The operation that runs.", "lm_head")
    bytes: int = described("Bytes alive while it runs.", 9_102_336_000)


class SeedHistory(Answer):
    """The reserved memory of one history of drawn micro-batches."""

    seed: int = described("The seed that the micro-batches are drawn with.", 0)
    peak_reserved_bytes: int = described("The most bytes reserved.", 9_640_607_744)
    peak_step: int = described("The first step that reserves them, from 1.", 33)


class History(Answer):
    """The reserved memory of micro-batches of different lengths, by replay."""

    worst_seed: int = described("The seed whose history reserves the most.", 1)
    peak_step: int = described("The first step of that history that reserves the most, from 1.", 33)
    constant_reserved_bytes: int = described(
        "What the run reserves if every micro-batch is the longest one and the cache is never emptied.", 9_440_607_744
    )
    added_bytes: int = described(
        "peak_reserved_bytes minus constant_reserved_bytes: what the order of lengths adds; negative if emptying the"
        " cache saves more.",
        200_000_000,
    )
    reserved_by_step: tuple[int, ...] = described(
        "The most bytes reserved in each step of that history.", [9_340_607_744, 9_640_607_744]
    )
    micro_batches: tuple[tuple[int, ...], ...] = described(
        "The padded lengths of the micro-batches of each step of that history.", [[512], [1024]]
    )
    seeds: tuple[SeedHistory, ...] = described("Every history.", [{"seed": 0, "peak_reserved_bytes": 9_640_607_744}])


class Memory(Answer):
    """The memory of one training step on each device, in whole bytes."""

    components: tuple[Component, ...] = described(
        "What is alive at the peak. The bytes add up to peak_allocated_bytes.",
        [{"name": "base_weights", "bytes": 16_060_522_496}],
    )
    phases: tuple[Phase, ...] = described(
        "The peak of each phase of the step.", [{"name": "backward", "peak_bytes": 9_341_251_584}]
    )
    peak_phase: PhaseName = described("The phase in which the step peaks.", "backward")
    peak_operation: str = described("The operation that runs at the peak.", "cross_entropy")
    timeline: tuple[Moment, ...] = described(
        "Bytes alive over the step.", [{"phase": "forward", "operation": "lm_head", "bytes": 9_102_336_000}]
    )
    host_bytes: int | None = described(
        "Host memory that one GPU's process uses for what is offloaded (DeepSpeed's offload_optimizer, FSDP's"
        " cpu_offload); null without offload.",
        None,
    )
    node_host_bytes: int | None = described("The same for all GPUs of a node (device.nodes).", None)
    peak_allocated_bytes: int = described(
        "The live tensors at the peak; each is rounded up to a multiple of 512 bytes.", 9_341_251_584
    )
    library_workspace_bytes: int = described(
        "The workspaces of cuBLAS. torch.cuda.max_memory_allocated() reads peak_allocated_bytes plus these.",
        17_039_360,
    )
    peak_reserved_bytes: int = described(
        "What torch.cuda.max_memory_reserved() reads, workspaces included.", 9_640_607_744
    )
    required_bytes: int = described("Reserved memory plus the CUDA context: what nvidia-smi shows.", 10_087_301_120)
    history: History | None = described(
        "What training.sequence_lengths and torch_empty_cache_steps change in peak_reserved_bytes; null without them,"
        " or by the rule. All other figures are those of the longest micro-batch that can be drawn.",
        None,
    )
    overheads: tuple[Row, ...] = described(
        "What required_bytes contains in addition to peak_allocated_bytes.",
        [
            {
                "name": "CUDA context",
                "count": 1,
                "bytes": 446_693_376,
                "formula": "",
                "substituted": "",
                "dtype": "",
                "source": "measured",
            }
        ],
    )
    interval: MemoryIntervalAnswer | None = described(
        "The interval of a trainer that decides by what a request does not state, such as free memory (unsloth). All"
        " other figures and the verdict are those of its high end; null for other trainers.",
        None,
    )
