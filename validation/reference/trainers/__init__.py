"""The trainers of transformers and TRL, built for a request with `training.trainer`."""
