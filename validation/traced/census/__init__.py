"""The census: which model types of transformers are answered, by which engine, and why others are not."""
