"""The speed of a run: its cost at rated speeds, divided by the efficiency that published runs reached."""
