"""The files that a checkpoint consists of, and their exact sizes."""
