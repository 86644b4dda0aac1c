"""Files of other tools: exports, imports, downloads, the Hugging Face Hub."""
