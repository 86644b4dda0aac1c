"""Sharding: what one GPU keeps and sends when a run is sharded over several GPUs."""
