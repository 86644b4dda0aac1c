"""Every worked figure of the lesson, recomputed, with a remark if it is a rule of thumb or wrong.

Source: the lesson "Parameter-Efficient Fine-Tuning (PEFT)", by section. As in the lesson, 1 GB is 10^9 bytes.
"""

from calculator.lesson.exercises import EXAMPLES, PROBLEMS
from calculator.lesson.figure import Figure
from calculator.lesson.methods import ADAPTERS, FULL, NORMAL_FLOAT, PREFIX, QUANTIZED

LESSON: tuple[Figure, ...] = (*FULL, *QUANTIZED, *NORMAL_FLOAT, *ADAPTERS, *PREFIX, *EXAMPLES, *PROBLEMS)
"""The lesson's figures, in its order."""

__all__ = ["LESSON", "Figure"]
