"""Find what is at fault: the layer that hurts accuracy, or the pass and site that a compilation breaks at."""

from lowbit_compiler.debug.layers import Accuracy, accuracy
from lowbit_compiler.debug.measure import measure

__all__ = ["Accuracy", "accuracy", "measure"]
