"""The sentences of an answer about a whole run: its host memory, its assumptions and its risks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.inputs.sharding import STAGES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.inputs.device import Device
    from calculator.inputs.run import RunSettings
    from calculator.methods.prepared_model import PreparedModel
    from calculator.run.gathered import Gathered

HOST = (
    "Host figures are what a phase adds to the resident set (RSS) of the process. Python, PyTorch, the CUDA libraries"
    " and the dataset are not counted. Pages of mapped files count until the files are closed; the system drops them if"
    " it needs memory."
)
META = (
    "transformers 5 makes every model on the meta device (under deepspeed.zero.Init, on the GPU) and maps safetensors"
    " files into memory, so low_cpu_mem_usage has no effect."
)
JUDGED = (
    "Phases other than the training step are judged by live tensors, rounded up to whole segments. Blocks that the"
    " allocator caches from the steps before are freed if a phase needs them."
)
FIRST = "The optimizer's first step is counted as its later ones, in which all states exist; it needs at most as much."
UNMEASURED = (
    "The host memory for writing GPU tensors to files is derived from the libraries' sources. It was not measured:"
    " that needs a GPU."
)
ASSUMPTIONS = (HOST, META, JUDGED, FIRST, UNMEASURED)


def assumed_dtype(dtype: str) -> str:
    """Return the assumption about the loaded files if neither the config nor the request states their data type."""
    return (
        f"The config states no torch_dtype: the loaded files are assumed to be in {dtype}, the run's precision."
        " Set run.checkpoint_dtype for another one: host memory depends on it."
    )


SEVERAL_GPUS = (
    "GPU figures are those of the first GPU, and host figures those of all processes of a node; mapped files are"
    " counted once. Each process reads the whole model (under deepspeed.zero.Init, the first alone) and gathers the"
    " logits of all. The first writes checkpoints; with SHARDED_STATE_DICT and under ZeRO, all write their parts."
)


OF_DEEPSPEED = (
    "Of DeepSpeed's files, the tensors are counted. In addition to them, a file has some kilobytes, and more where a"
    " model has many parameters."
)
OF_FSDP = (
    "transformers 5 reads the weights in every process, whatever fsdp_config.cpu_ram_efficient_loading is, and with it"
    " the host's figures are the same. accelerate launch sets it unless a file sets it; transformers does not."
)
OF_BROADCASTS = (
    "The load's figure is of the last GPU, which needs the most while accelerate broadcasts the weights: two whole ones"
    " are on it at a time."
)
OF_SHARDS = "The file .metadata of torch.distributed.checkpoint, which lists all shards, is not counted."


def several_gpus(device: Device, run: RunSettings, *, broadcasts: bool) -> Iterator[str]:
    """Yield sentences on how the figures count a run on several GPUs.

    `broadcasts`: whether accelerate broadcasts the weights when it loads.
    """
    if device.count > 1:
        yield SEVERAL_GPUS
    if device.sharding in STAGES and run.saves and not run.save_only_model:
        yield OF_DEEPSPEED
    if device.sharding == "fsdp":
        yield OF_FSDP
    if broadcasts:
        yield OF_BROADCASTS
    if run.state_dict_type == "SHARDED_STATE_DICT":
        yield OF_SHARDS


GENERATES = (
    "Seq2SeqTrainer generates by greedy search, until every sequence has generation_max_length tokens. Beams and other"
    " settings of the checkpoint's generation_config.json are not counted."
)
#: Source: transformers/trainer_seq2seq.py, prediction_step (synced_gpus); transformers/distributed/fsdp.py,
#: is_fsdp_managed_module, which looks for what apply_fsdp2 sets. accelerate does not set it.
GENERATES_UNDER_FSDP = (
    "Under fsdp, each token gathers every layer again, and transformers does not keep a GPU running whose sequences"
    " have ended before another's: the others wait for it without end. The figures are for sequences that all reach"
    " generation_max_length (min_new_tokens in generation_config.json sees to it)."
)
OF_TARGET = "The tokens of generation_max_length are those of the target, with the one that it starts with."


#: Source: transformers/models/whisper/generation_whisper.py, WhisperGenerationMixin.generate.
OF_AUDIO = (
    "The decoder starts with the tokens of a language and a task, without timestamps, which generation_max_length does"
    " not count, and generate suppresses the tokens that OpenAI's checkpoints list. Detecting the language first needs"
    " no more. With return_timestamps, generate decodes a segment after the other, which is not modeled. Audio is that"
    " of one whole input of the encoder (30 seconds in OpenAI's), which refuses any other length in the loss."
)


def generation_sentences(run: RunSettings, prepared: PreparedModel) -> Iterator[str]:
    """Yield sentences on how the figures count generation in an evaluation."""
    if run.generates:
        yield GENERATES
        if prepared.device.sharding == "fsdp":
            yield GENERATES_UNDER_FSDP
        if prepared.model.reads_audio:
            yield OF_AUDIO
        elif prepared.model.encoder_layers:
            yield OF_TARGET


def host_of_evaluation(gathered: Gathered) -> str:
    """Return the sentence on where the host memory of an evaluation comes from."""
    if not gathered.outputs:
        return "No logits are gathered."
    names = " and ".join(output.name for output in gathered.outputs)
    has_bfloat16 = any(output.dtype == "bfloat16" for output in gathered.outputs)
    converted = ", as float32 arrays because NumPy has no bfloat16" if has_bfloat16 else ""
    return f"The {names} of all {gathered.samples:,} samples are gathered for compute_metrics{converted}."


#: The sentence on where the host memory of writing files comes from.
SAFETENSORS = "safetensors copies all tensors of a file to the host before it writes them."
LARGEST_STATE = "torch.save copies the optimizer's states to the host one by one; the largest is counted."
WHOLE_STATE = (
    "The first process gathers the whole model in host memory, frozen weights too, then the optimizer's states; the"
    " larger is counted."
)
SHARDS = "torch.distributed.checkpoint copies a process's shards to the host one by one; the largest is counted."
GATHERED_WEIGHTS = "The first process gathers the weights that it saves in host memory, one by one."
PARTITIONS = "Every process copies its largest partition to the host (torch.save copies tensors one by one)."
CLONES = "Every process clones the whole model to the host (clone_tensors_for_torch_save)."


def warnings(run: RunSettings, prepared: PreparedModel) -> Iterator[str]:
    """Yield risks of the run's settings."""
    ranks = prepared.device.count
    if run.gathers_logits and ranks > 1:
        yield f"Each GPU gathers the logits of all {ranks:,}: evaluation keeps {ranks:,} times those of its own rows."
    task = prepared.model.task.name
    if run.gathers_logits and task in ("causal_lm", "seq_2_seq_lm"):
        length = prepared.given.target_length if task == "seq_2_seq_lm" else None
        tokens = run.eval_samples * (prepared.given.sequence_length if length is None else length)
        outputs = int(prepared.model.output.out_features)
        yield (
            f"compute_metrics gathers the logits of {tokens:,} tokens, {outputs:,} for each."
            " preprocess_logits_for_metrics (an argmax, for example) or prediction_loss_only avoids it."
        )
        if task == "seq_2_seq_lm":
            yield "It gathers the encoder's last states too (encoder_last_hidden_state)."
        if prepared.given.trainer == "trl-sft":
            yield "SFTTrainer computes these logits in a second forward pass of each batch, and TRL 2.0 will not."
    if run.saves and run.save_total_limit is None and run.checkpoints > 1:
        yield f"All checkpoints ({run.checkpoints:,}) stay on the disk. save_total_limit deletes older ones."
