"""Save the checkpoint of a run on several processes on the CPU (gloo), and compare its files with the prediction.

python -m validation checkpoints REQUEST.json ...

The real Trainer takes one step under FSDP2 or DeepSpeed. Of DeepSpeed's files, which have its own state in them too,
the tensors are compared.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from contextlib import ExitStack
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from unittest import mock
from zipfile import ZipFile

import torch
import torch.distributed as dist
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from transformers import Trainer, TrainingArguments

from calculator.inputs.sharding import parse_sharding
from calculator.run.request import parse_run
from calculator.run.run import whole_run
from validation.reference.build import build_model
from validation.reference.trainers.meta_device import CAPABILITIES
from validation.sharding.launch import arguments as distributing
from validation.sharding.streams import Streams
from validation.tracing.silence import silence_libraries

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from calculator.run.answer import SavedFile

#: The tokens of the only row of the data set.
TOKENS = 8


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("requests", nargs="+", help="files of run requests with device.count and device.sharding")


def run(args: argparse.Namespace) -> int:
    """Train, save, compare and print; returns 1 if a file's bytes differ."""
    silence_libraries()
    torch.set_num_threads(1)
    differ = False
    for name in args.requests:
        body = json.loads(Path(name).read_text(encoding="utf-8"))
        predicted = whole_run(parse_run(body)).files
        with TemporaryDirectory() as folder:
            _train(body, folder)
            for file, written in compared(predicted, Path(folder, "run", "checkpoint-1")):
                differ = differ or file.bytes != written
                print(f"{name}: {file.name}: predicted {file.bytes:,}, written {written:,}")
    return int(differ)


def compared(predicted: Iterable[SavedFile], folder: Path) -> list[tuple[SavedFile, int]]:
    """Each predicted file, or files with a pattern in their name, with the bytes that were written."""
    written = [(str(path.relative_to(folder)), path) for path in folder.rglob("*") if path.is_file()]
    return [(each, sum(_bytes(path) for name, path in written if fnmatch(name, each.name))) for each in predicted]


def _bytes(path: Path) -> int:
    """The size of a file; of DeepSpeed's, that of its tensors."""
    if path.suffix != ".pt":
        return path.stat().st_size
    with ZipFile(path) as archive:
        return sum(each.file_size for each in archive.infolist() if "/data/" in each.filename)


def _train(body: dict[str, Any], folder: str) -> None:
    """Train for a step in as many processes as there are GPUs, and save."""
    context, count = multiprocessing.get_context("fork"), body["device"]["count"]
    processes = [context.Process(target=_run_rank, args=(body, rank, folder)) for rank in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError("a process failed; its message is above")


def _run_rank(body: dict[str, Any], rank: int, folder: str) -> None:
    parsed, device = parse_run(body), body["device"]
    sharding = parse_sharding({name: body[name] for name in body if name != "run"}, device["sharding"], device["count"])
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(sharding.count),
        "LOCAL_WORLD_SIZE": str(sharding.count),
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "29500",
        "ACCELERATE_TORCH_DEVICE": "cpu",
    }
    dist.init_process_group(
        "gloo", rank=rank, world_size=sharding.count, store=dist.FileStore(f"{folder}/store", sharding.count)
    )
    given = distributing(parsed.estimate.training, sharding)
    if "fsdp_config" in given:
        given["fsdp_config"] |= {"state_dict_type": parsed.run.state_dict_type}
    with ExitStack() as stack:
        found = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)  # noqa: E731
        stack.enter_context(mock.patch.object(PartialState, "_prepare_backend", found))
        for name, answer in CAPABILITIES.items():
            stack.enter_context(mock.patch(name, answer))
        if sharding.stage:
            from validation.sharding import accelerator  # noqa: PLC0415  (DeepSpeed is optional)

            accelerator.forget_groups()
            stack.enter_context(accelerator.posing_as_cuda("cpu", Streams(), "gloo"))
        training = parsed.estimate.training
        # Under stage 3, a model that is built later is one of deepspeed.zero.Init.
        model = build_model(parsed.estimate, torch.device("cpu")).model
        settings = TrainingArguments(
            output_dir=f"{folder}/run",
            optim=training.optimizer,
            bf16=training.autocast == "bfloat16",
            save_only_model=parsed.run.save_only_model,
            max_steps=1,
            per_device_train_batch_size=1,
            report_to=[],
            disable_tqdm=True,
            **given,
        )
        row = {name: torch.ones(TOKENS, dtype=torch.long) for name in ("input_ids", "labels")}
        Trainer(model=model, args=settings, train_dataset=[row] * sharding.count).train()
    dist.barrier()
    dist.destroy_process_group()
