"""Live-tensor traces of the real modules on the meta device."""
