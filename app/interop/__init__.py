"""Interoperation with other tools: exports, imports, downloads, and the Hugging Face Hub."""
