"""The files of a checkpoint, and their exact sizes."""
