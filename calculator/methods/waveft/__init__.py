"""WaveFT."""
