"""Run an exported script as `accelerate launch` does, in two processes on the CPU with gloo.

python two_processes.py FOLDER SCRIPT_ARGUMENTS...

accelerate runs FSDP on accelerators only: the processes make it use the CPU as one.
"""

import multiprocessing
import os
import runpy
import sys
from pathlib import Path

import peft  # noqa: F401  imported once, before the fork
import torch
import transformers  # noqa: F401
from accelerate import state
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_multi_gpu_env


def launched(folder, rank):
    """Run the script as one rank."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    torch.set_num_threads(1)
    state.PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
    state.PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))
    sys.argv = ["train.py", *sys.argv[2:]]
    runpy.run_path(str(folder / "train.py"), run_name="__main__")


def main():
    folder = Path(sys.argv[1])
    parser = launch_command_parser()
    args = parser.parse_args(["--config_file", str(folder / "accelerate.yaml"), "--main_process_port", "0", "train.py"])
    os.environ |= prepare_multi_gpu_env(_validate_launch_command(args)[0])
    os.environ["MASTER_PORT"] = args.master_port
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=launched, args=(folder, rank)) for rank in range(args.num_processes)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    return max(rank.exitcode for rank in ranks)


if __name__ == "__main__":
    sys.exit(main())
