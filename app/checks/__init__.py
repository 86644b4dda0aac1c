"""Checks of files that describe runs: each file's request, its verdict, and reports for people and for CI systems."""
