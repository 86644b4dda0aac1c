"""Traces of one rank of a sharded run: DDP, FSDP2 and DeepSpeed's ZeRO on PyTorch's `fake` process group."""
