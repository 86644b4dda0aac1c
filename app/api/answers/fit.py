"""Whether a run fits a device, in an answer."""

from typing import Annotated, Any

from pydantic import BeforeValidator, model_validator

from app.api.answers.answer import Answer, described
from app.presentation.consequences import consequences
from calculator.devices import GPU, Verdict
from calculator.devices import Fit as CalculatedFit
from calculator.devices.outcome import ReplayPhase


def _gpu_id(gpu: Any) -> Any:
    return gpu.id if isinstance(gpu, GPU) else gpu


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
    gpus_needed: int | None = described(
        "A lower bound on the number of such GPUs; null if no number is enough, because what is not sharded needs"
        " more than one has. More than one requires sharding: without it, each GPU needs all of the memory.",
        1,
    )
    assumption: str = described("The source of usable_bytes.", "A process can use 24,081 MiB of GeForce RTX 4090")
    advice: str | None = described("What helps a tight run; null if the verdict is not tight.", None)
    awake_bytes: int = described(
        "What the GPU needs while vLLM generates, if it sleeps during training steps (vllm_enable_sleep_mode); 0 "
        "without that mode.",
        0,
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

    verdict: Verdict = described("Whether the run fits with them.", "fits")
    retries_per_step: int = described("How many times a step frees cached blocks and requests memory again.", 0)
    minimum_bytes: int = described("The smallest usable memory on which a replay of it finished.", 24_000_000_000)


class ReplayedFit(Fit):
    """Whether the run fits the requested device, by replay. The added fields are null by the rule."""

    minimum_bytes: int | None = described(
        "The smallest usable memory on which a replay of the run finished, CUDA context included.", 14_500_000_000
    )
    margin_bytes: int | None = described("usable_bytes minus minimum_bytes.", 10_750_758_656)
    retries: int | None = described(
        "How many times cached blocks are freed and memory is requested again, from loading to the steady state.", 0
    )
    retries_per_step: int | None = described(
        "The same in each step of the steady state; in inference, the most in a pass.", 0
    )
    out_of_memory: OutOfMemoryAnswer | None = described("Where the run ends out of memory; null if it runs.", None)


class DeviceFit(ReplayedFit):
    """Whether the run fits the requested device, and what happens there. The added fields are null by the rule."""

    with_expandable_segments: ExpandableSegmentsAnswer | None = described(
        "The run with expandable segments; null if it fits without them, or has them already.", None
    )
    consequences: tuple[str, ...] = described(
        "What happens in a run that is tight or does not fit, in sentences; empty if it fits.", []
    )

    @model_validator(mode="before")
    @classmethod
    def _with_consequences(cls, value: Any) -> Any:
        if not isinstance(value, CalculatedFit):
            return value
        names = [name for name in cls.model_fields if name != "consequences"]
        return {**{name: getattr(value, name) for name in names}, "consequences": (*consequences(value),)}
