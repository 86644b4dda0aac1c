"""The parts that methods share whose update is a dense matrix, as in LyCORIS."""
