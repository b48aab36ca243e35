"""Graph passes from the captured ATen graph to packed low-bit ops."""
