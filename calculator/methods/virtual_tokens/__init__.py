"""The parts that prefix and prompt tuning share."""
