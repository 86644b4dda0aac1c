"""FourierFT."""
