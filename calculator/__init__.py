"""The planner itself: pure Python, standard library only."""
