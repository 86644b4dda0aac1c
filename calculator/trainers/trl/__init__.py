"""The parts that the trainers of TRL 1.16 share."""
