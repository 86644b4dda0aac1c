"""The phases of a trainer's step: when each begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.common.names import PhaseName


def run_before(owner: Any, method: str, effect: Callable[[], None]) -> None:
    """Make a method have an effect before it runs."""
    unchanged = getattr(owner, method)

    def changed(*args: Any, **kwargs: Any) -> Any:
        effect()
        return unchanged(*args, **kwargs)

    setattr(owner, method, changed)


def run_after(owner: Any, method: str, effect: Callable[[], None]) -> None:
    """Make a method have an effect after it has run."""
    unchanged = getattr(owner, method)

    def changed(*args: Any, **kwargs: Any) -> Any:
        out = unchanged(*args, **kwargs)
        effect()
        return out

    setattr(owner, method, changed)


def mark_passes(trainer: Any, begin_step: Callable[[], None], enter: Callable[[PhaseName], None]) -> None:
    """Call back when a step and its passes begin. A step begins when the trainer collects its batches."""
    run_before(trainer, "get_batch_samples", begin_step)
    run_before(trainer, "training_step", lambda: enter("forward"))
    if not getattr(trainer, "use_vllm", True):
        run_before(trainer, "_generate", lambda: enter("generation"))
        run_after(trainer, "_generate", lambda: enter("forward"))
    run_before(trainer.accelerator, "backward", lambda: enter("backward"))


def mark_update(trainer: Any, begin_update: Callable[[], None]) -> None:
    """Call back when a step's update begins: before its gradients are clipped."""
    run_before(trainer.accelerator, "clip_grad_norm_", begin_update)
