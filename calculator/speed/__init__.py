"""How fast a run is: its cost at rated speeds, divided by what published runs reached of them."""
