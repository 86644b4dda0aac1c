"""The functions of the package mamba-ssm that Mamba 2 calls where it is installed."""
