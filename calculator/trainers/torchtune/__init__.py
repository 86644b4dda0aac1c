"""torchtune's recipes for one device."""
