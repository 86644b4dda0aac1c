"""The functions of the package mamba-ssm that Mamba 2 calls if it is installed."""
