"""What an answer about a whole run says about its host memory, its assumptions and its risks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.inputs.run import RunSettings
    from calculator.methods.prepared_model import PreparedModel
    from calculator.run.gathered import Gathered

HOST = (
    "Host figures are what a phase adds to the resident set (RSS) of the process. Python, PyTorch, the CUDA libraries"
    " and the dataset are not counted. Pages of mapped files count until the files are closed; the system drops them if"
    " it needs memory."
)
META = (
    "transformers 5 makes every model on the meta device and maps safetensors files into memory, so low_cpu_mem_usage"
    " has no effect."
)
JUDGED = (
    "Phases other than the training step are judged by live tensors, rounded up to whole segments. Blocks that the"
    " allocator caches from the steps before are freed if a phase needs them."
)
FIRST = "The optimizer's first step is counted as its later ones, in which all states exist; it needs at most as much."
UNMEASURED = (
    "Host memory of writing tensors that are on a GPU follows the libraries' sources. It is not measured, which needs a"
    " GPU."
)
ASSUMPTIONS = (HOST, META, JUDGED, FIRST, UNMEASURED)


SEVERAL_GPUS = (
    "GPU figures are those of the first GPU, and host figures those of all processes of a node; mapped files are"
    " counted once. Each process reads the whole model and gathers the logits of all; the first writes checkpoints."
)


def several_gpus(count: int) -> Iterator[str]:
    """Yield what a run on several GPUs means for the figures."""
    if count > 1:
        yield SEVERAL_GPUS


def host_of_evaluation(gathered: Gathered) -> str:
    """Where the host memory of an evaluation comes from."""
    if gathered.logits is None:
        return "No logits are gathered."
    converted = ", as float32 arrays because NumPy has no bfloat16" if gathered.logits[1] == "bfloat16" else ""
    return f"The logits of all {gathered.samples:,} samples are gathered for compute_metrics{converted}."


def host_of_saving(model: int, host: int) -> str:
    """Where the host memory of writing files comes from."""
    if host > model:
        return "torch.save copies the optimizer's states to the host one by one; the largest is counted."
    return "safetensors copies all tensors of a file to the host before it writes them."


def warnings(run: RunSettings, prepared: PreparedModel) -> Iterator[str]:
    """Risks of the run's settings."""
    ranks = prepared.device.count
    if run.gathers_logits and ranks > 1:
        yield f"Each GPU gathers the logits of all {ranks:,}: evaluation keeps {ranks:,} times those of its own rows."
    if run.gathers_logits:
        tokens, outputs = run.eval_samples * prepared.given.sequence_length, int(prepared.model.output.out_features)
        yield (
            f"compute_metrics gathers the logits of {tokens:,} tokens, {outputs:,} for each."
            " preprocess_logits_for_metrics (an argmax, for example) or prediction_loss_only avoids it."
        )
        if prepared.given.trainer == "trl-sft":
            yield "SFTTrainer computes these logits in a second forward pass of each batch, and TRL 2.0 will not."
    if run.saves and run.save_total_limit is None and run.checkpoints > 1:
        yield f"All {run.checkpoints:,} checkpoints stay on the disk: save_total_limit bounds them."
