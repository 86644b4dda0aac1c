"""Estimates compared with traces, case by case."""
