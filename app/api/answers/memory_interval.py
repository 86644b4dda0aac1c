"""The interval of an answer's memory, in the answers that contain an estimate."""

from app.api.answers.answer import Answer, described
from calculator.devices import Verdict


class ByteInterval(Answer):
    """The least and the most bytes of a figure."""

    low: int = described("The low end.", 7_200_000_000)
    high: int = described("The high end, which is the answer's own figure.", 9_341_251_584)


class MemoryIntervalAnswer(Answer):
    """The interval of the memory, whose ends are runs that are possible with the same request."""

    peak_allocated_bytes: ByteInterval = described("Of the live tensors at the peak.", {"low": 1, "high": 2})
    peak_reserved_bytes: ByteInterval = described("Of reserved memory.", {"low": 1, "high": 2})
    required_bytes: ByteInterval = described("Of reserved memory plus the CUDA context.", {"low": 1, "high": 2})
    lowest_verdict: Verdict | None = described("The verdict of the low end; null without a device.", "fits")
    reasons: tuple[str, ...] = described(
        "What determines the memory, and what each end stands for.", ["Chunks of the loss: ..."]
    )
