"""Find what is at fault: the layer that hurts accuracy, or the pass and site that a compilation breaks at; and bits for each layer."""

from lowbit_compiler.debug.layers import Accuracy, accuracy
from lowbit_compiler.debug.measure import measure
from lowbit_compiler.debug.widths import Widths, widths

__all__ = ["Accuracy", "Widths", "accuracy", "measure", "widths"]
