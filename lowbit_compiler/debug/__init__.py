"""Find what is at fault: the layer that hurts accuracy, or the pass and site that a compilation breaks at; bits for each layer; and gradients of training."""

from lowbit_compiler.debug.gradients import Gradients, gradients
from lowbit_compiler.debug.layers import Accuracy, accuracy
from lowbit_compiler.debug.measure import measure
from lowbit_compiler.debug.widths import Widths, widths

__all__ = ["Accuracy", "Gradients", "Widths", "accuracy", "gradients", "measure", "widths"]
