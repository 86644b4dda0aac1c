"""Run an exported script as `accelerate launch` or torchrun does, in two processes on the CPU with gloo.

python two_processes.py FOLDER SCRIPT_ARGUMENTS...

A folder without accelerate.yaml is torchrun's. accelerate runs FSDP on accelerators only: the processes make it use the
CPU as one.
"""

import multiprocessing
import os
import runpy
import socket
import sys
from pathlib import Path

import peft  # noqa: F401  imported once, before the fork
import torch
import transformers  # noqa: F401
from accelerate import state
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_multi_gpu_env

CONFIGURATION = "accelerate.yaml"


def launched(folder, rank):
    """Run the script as one rank."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    torch.set_num_threads(1)
    if (folder / CONFIGURATION).exists():
        use_cpu()
    sys.argv = ["train.py", *sys.argv[2:]]
    runpy.run_path(str(folder / "train.py"), run_name="__main__")


def use_cpu():
    """Make accelerate take the CPU for an accelerator."""
    state.PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
    state.PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))
    torch.distributed.init_process_group("gloo")  # which accelerate leaves out for a Trainer with use_cpu


def configure(folder):
    """Set the environment that the launcher sets."""
    if not (folder / CONFIGURATION).exists():
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            os.environ["MASTER_PORT"] = str(free.getsockname()[1])
        return
    parser = launch_command_parser()
    options = ["--config_file", str(folder / CONFIGURATION), "--main_process_port", "0", "train.py"]
    args = parser.parse_args(options)
    os.environ |= prepare_multi_gpu_env(_validate_launch_command(args)[0])
    os.environ["MASTER_PORT"] = args.master_port


def main():
    folder = Path(sys.argv[1])
    configure(folder)
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=launched, args=(folder, rank)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    return max(rank.exitcode for rank in ranks)


if __name__ == "__main__":
    sys.exit(main())
