"""Planning over many estimates: the largest that fits."""
