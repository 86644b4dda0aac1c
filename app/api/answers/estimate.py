"""Answer of `POST /api/v1/estimate`, and the parts that other answers share with it."""

from dataclasses import fields, is_dataclass
from types import NoneType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, model_validator

from app.api.accuracy.accuracy import accuracy
from app.api.answers.answer import Answer, described
from app.api.answers.memory_interval import MemoryIntervalAnswer
from app.presentation.consequences import consequences
from calculator.common.names import ComponentName, PhaseName, TaskName
from calculator.devices import GPU, Verdict
from calculator.devices import Fit as CalculatedFit
from calculator.devices.outcome import ReplayPhase
from calculator.estimation.answer import Estimate
from calculator.estimation.traced.grade import EngineName, Grade
from calculator.methods import Method


def _gpu_id(gpu: Any) -> Any:
    return gpu.id if isinstance(gpu, GPU) else gpu


class ModelSummary(Answer):
    """The base model."""

    id: str | None = described("The catalogue id; null for a config.json.", "meta-llama/Llama-3.1-8B")
    model_type: str | None = described("The model family, as config.json names it.", "llama")
    parameters: int = described("Number of parameters; tied weights count once.", 8_030_261_248)
    task: TaskName = described("What it is trained for, which decides its head.", "causal_lm")


class ParameterCounts(Answer):
    """Numbers of parameters: base model, added, trainable and total."""

    base: int = described("Parameters of the base model.", 8_030_261_248)
    added: int = described("Parameters that the method adds.", 41_943_040)
    trainable: int = described("Parameters that are trained.", 41_943_040)
    total: int = described("Base and added parameters together.", 8_072_204_288)
    trainable_fraction: float = described("Trainable parameters divided by all parameters, 0 to 1.", 0.005196)


class Row(Answer):
    """Tensors of one kind that are alive at the peak."""

    keeps_json: ClassVar[bool] = True

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

    phase: PhaseName = described("The phase of the step.", "forward")
    operation: str = described("The operation that runs.", "lm_head")
    bytes: int = described("Bytes alive while it runs.", 9_102_336_000)


class SeedHistory(Answer):
    """What one history of drawn micro-batches reserves."""

    seed: int = described("The seed that the micro-batches are drawn with.", 0)
    peak_reserved_bytes: int = described("The most bytes reserved.", 9_640_607_744)
    peak_step: int = described("The first step that reserves them, from 1.", 33)


class History(Answer):
    """What micro-batches of different lengths reserve, by replay."""

    worst_seed: int = described("The seed whose history reserves the most.", 1)
    peak_step: int = described("The first step of that history that reserves the most, from 1.", 33)
    constant_reserved_bytes: int = described(
        "What the run reserves if every micro-batch is the longest one and the cache is never emptied.", 9_440_607_744
    )
    added_bytes: int = described(
        "peak_reserved_bytes minus constant_reserved_bytes: what the order of lengths adds; negative where emptying the"
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


class Fit(Answer):
    """Whether the run fits the requested device."""

    gpu: Annotated[str | None, BeforeValidator(_gpu_id)] = described(
        "The GPU's catalogue id; null if the request gives a memory size.", "rtx-4090"
    )
    usable_bytes: int = described("Bytes that a process can use on the device.", 25_250_758_656)
    verdict: Verdict = described(
        "Whether the run fits. By replay, tight means that it runs, but only because cached blocks are freed and"
        " requested again; by the rule, that it depends on fragmentation.",
        "fits",
    )
    headroom_bytes: int = described(
        "usable_bytes minus required_bytes; negative if the run does not fit.", 15_163_457_536
    )
    gpus_needed: int = described(
        "A lower bound on the number of such GPUs. More than one requires sharding: without it, each GPU needs all of"
        " the memory.",
        1,
    )
    assumption: str = described("Where usable_bytes comes from.", "A process can use 24,081 MiB of GeForce RTX 4090")
    advice: str | None = described("What helps a tight run; null if the verdict is not tight.", None)
    awake_bytes: int = described(
        "What the GPU needs while vLLM generates that sleeps otherwise (vllm_enable_sleep_mode); 0 without it.", 0
    )


class OutOfMemoryAnswer(Answer):
    """Where a run ends out of memory."""

    step: int = described("The training step or the pass of generate, from 1; 0 while the model is loaded.", 1)
    phase: ReplayPhase = described("What runs then.", "forward")
    tensor: str = described("The tensor that is requested.", "logits")
    requested_bytes: int = described("The bytes that are requested.", 33_554_432)
    message: str = described("The text of torch.OutOfMemoryError.", "CUDA out of memory. Tried to allocate 32.00 MiB.")


class ExpandableSegmentsAnswer(Answer):
    """The same run with PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True."""

    verdict: Verdict = described("Whether the run fits then.", "fits")
    retries_per_step: int = described("How often a step frees cached blocks and requests memory again.", 0)
    minimum_bytes: int = described("The smallest usable memory on which it was found to run.", 24_000_000_000)


class ReplayedFit(Fit):
    """Whether the run fits the requested device, by replay. The added fields are null by the rule."""

    minimum_bytes: int | None = described(
        "The smallest usable memory on which the run was found to run, CUDA context included.", 14_500_000_000
    )
    margin_bytes: int | None = described("usable_bytes minus minimum_bytes.", 10_750_758_656)
    retries: int | None = described(
        "How often cached blocks are freed and memory is requested again, from the load to the steady state.", 0
    )
    retries_per_step: int | None = described(
        "The same in each step of the steady state; in inference, the most in a pass.", 0
    )
    out_of_memory: OutOfMemoryAnswer | None = described("Where the run ends out of memory; null if it runs.", None)


class DeviceFit(ReplayedFit):
    """Whether the run fits the requested device, and how it goes there. The added fields are null by the rule."""

    with_expandable_segments: ExpandableSegmentsAnswer | None = described(
        "The run with expandable segments; null if it fits without them, or has them already.", None
    )
    consequences: tuple[str, ...] = described(
        "What a run that is tight or does not fit meets, in sentences; empty if it fits.", []
    )

    @model_validator(mode="before")
    @classmethod
    def _with_consequences(cls, value: Any) -> Any:
        if not isinstance(value, CalculatedFit):
            return value
        names = [name for name in cls.model_fields if name != "consequences"]
        return {**{name: getattr(value, name) for name in names}, "consequences": (*consequences(value),)}


class StatisticErrors(Answer):
    """Errors of the estimates of one statistic. An error is estimate divided by measurement, minus one."""

    statistic: str = described(
        "The measured statistic: max_memory_allocated, memory_allocated (at a point of a step),"
        " max_memory_reserved or nvidia_smi.",
        "max_memory_allocated",
    )
    figures: int = described("Number of measured figures.", 5)
    configurations: int = described("Number of configurations that were measured.", 4)
    lowest_error: float = described("The lowest error; negative if the estimate is too low.", -0.005194)
    highest_error: float = described("The highest error.", -0.005045)
    median_absolute_error: float = described("The median of the absolute errors.", 0.00517)


class Interval(Answer):
    """The range in which required_bytes of such runs was measured."""

    lowest_bytes: int = described("required_bytes corrected by the highest error.", 9_640_607_744)
    highest_bytes: int = described("required_bytes corrected by the lowest error.", 9_740_607_744)


class Accuracy(Answer):
    """How far estimates of this method were from measurements. See GET /api/v1/validation for every row."""

    method: str = described("The method that was measured. DoRA is listed under its own name.", "lora")
    sentence: str = described("A summary.", "Estimates of LoRA were compared with 17 measured figures: ...")
    errors: tuple[StatisticErrors, ...] = described("The errors per statistic; empty if nothing was measured.", [])
    interval: Interval | None = described(
        "required_bytes corrected by the errors of measured nvidia-smi figures. Null if there are none, or if"
        " peak_reserved_bytes is by the rule: the measurements were compared with replays.",
        None,
    )


class CollectiveAnswer(Answer):
    """The collectives of one kind in a step."""

    name: str = described("The collective, as in torch.distributed.", "all_reduce")
    ranks: int = described("The number of GPUs that take part.", 4)
    payload_bytes: int = described(
        "The bytes of the whole tensors that are reduced, or that gathers result in.", 167_772_160
    )
    sent_bytes: int = described(
        "The bytes that each GPU sends to others, and receives, by the ring algorithm.", 251_658_240
    )
    node_sent_bytes: int = described(
        "The bytes that each node sends to another, and receives, by the ring algorithm; 0 on one node.", 0
    )
    formula: str = described("The formula of sent_bytes.", "2 × (count - 1) / count × gradients")
    substituted: str = described("The formula with numbers.", "2 × 3 / 4 × 167,772,160")
    source: str = described("Source of the formula.", "github.com/NVIDIA/nccl-tests, doc/PERFORMANCE.md")


class TraceAnswer(Answer):
    """The trace that an answer is from."""

    versions: dict[str, str] = described(
        "The releases of the libraries whose step ran.", {"torch": "2.13.0", "transformers": "5.24.0"}
    )
    seconds: float = described("How long the trace took, without the import of the libraries.", 6.2)
    unchecked_operations: tuple[str, ...] = described(
        "Operations that allocate memory in this step and in no step that the calculator models: scratch memory that"
        " they may need on a GPU is not checked.",
        ["convolution"],
    )
    kernel_packages: dict[str, tuple[str, ...]] = described(
        "Packages whose kernels replace functions of this model where they are installed, with these functions. The"
        " figures are without them.",
        {"flash-linear-attention": ["chunk_gated_delta_rule"]},
    )
    guesses: tuple[str, ...] = described(
        "What was guessed of values that a trace does not have, in sentences.", ["Choices are spread evenly."]
    )


class EstimateAnswer(Answer):
    """The memory, parameters and verdict of one run."""

    model: ModelSummary = described("The base model that is fine-tuned.", {"id": "meta-llama/Llama-3.1-8B"})
    method: dict[str, Any] = described("The method with every setting.", {"name": "lora", "r": 16})
    accounting: Literal["exact", "textbook"] = described("The accounting that was used.", "exact")
    reserved: Literal["rule", "replay"] = described("How peak_reserved_bytes was computed.", "replay")
    parameters: ParameterCounts = described("Numbers of parameters.", {"trainable": 41_943_040})
    memory: Memory = described("The memory of one training step.", {"peak_allocated_bytes": 9_341_251_584})
    fit: Fit | None = described("The verdict; null if the request has no device.", {"verdict": "fits"})
    saved_bytes: int = described(
        "Size of a checkpoint of the trained parameters, without the file's header: an adapter, or the whole model"
        " for full fine-tuning.",
        167_772_160,
    )
    assumptions: tuple[str, ...] = described("What the figures assume.", ["PyTorch 2.13, transformers 5, peft 0.21"])
    warnings: tuple[str, ...] = described("Risks worth knowing.", [])
    communication: tuple[CollectiveAnswer, ...] | None = described(
        "What each GPU sends in a step, by collective; null for a run on one GPU.", None
    )
    engine: EngineName = described("What found the figures: the calculator, or a trace of the real step.", "calculator")
    grade: Grade | None = described(
        "How far the figures may be trusted, with the most trusted first: of the calculator; of one from source that no"
        " trace was compared with; of a trace with operations"
        " that are validated; with others, whose scratch memory on a GPU is unchecked; of a model that a kernel package"
        " changes. Null with textbook accounting.",
        "modelled",
    )
    trace: TraceAnswer | None = described("The trace that the figures are from; null for the calculator's.", None)
    accuracy: Accuracy = described("How far similar estimates were from measurements.", {"method": "lora"})

    @model_validator(mode="before")
    @classmethod
    def _with_accuracy(cls, value: Any) -> Any:
        if not isinstance(value, Estimate):
            return value
        attributes = {field.name: getattr(value, field.name) for field in fields(value)}
        return {**attributes, "method": settings(value.method), "accuracy": accuracy(value)}


class ComparedEstimateAnswer(EstimateAnswer):
    """The memory, parameters and verdict of one of several runs."""

    fit: ReplayedFit | None = described("The verdict; null if the request has no device.", {"verdict": "fits"})


class SingleEstimateAnswer(EstimateAnswer):
    """The memory, parameters and verdict of one run, with how it goes at the device's limit."""

    fit: DeviceFit | None = described("The verdict; null if the request has no device.", {"verdict": "fits"})


def settings(method: Method) -> dict[str, Any]:
    """Return a method with every setting, as a request spells it."""
    return {"name": method.name, **{name: _plain(value) for name, value in _values(method)}}


def _values(settings: Any) -> list[tuple[str, Any]]:
    return [(field.name, getattr(settings, field.name)) for field in fields(settings)]


_JSON = (str, int, float, NoneType)


def _plain(value: Any) -> Any:
    """Return a setting as `dataclasses.asdict` does. Settings are never changed, so nothing is copied."""
    if isinstance(value, _JSON):
        return value
    return {name: _plain(each) for name, each in _values(value)} if is_dataclass(value) else value
