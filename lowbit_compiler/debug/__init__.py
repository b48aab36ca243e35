"""Find what is at fault: the layer that hurts accuracy, or the pass and site that a compilation breaks at."""
