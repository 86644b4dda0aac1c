"""Methods side by side, and plans side by side."""
