"""Model families by `model_type`."""
