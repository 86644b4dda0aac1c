"""What sharding a run over several GPUs changes on one of them."""
