"""Planning over many estimates: the largest that fits, and the configurations to choose from."""
