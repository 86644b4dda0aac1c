"""Sweeps over several processes or machines, through joblib, and the files that they are written to."""
