"""Command-line output of long runs."""
