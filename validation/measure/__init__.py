"""Measured memory of real modules on a real device, compared with the calculator's rows."""
