"""Find out what a compilation does to a model's accuracy: certificates of single products, and the layers that hurt."""

from lowbit_compiler.debug.layers import Accuracy, accuracy
from lowbit_compiler.debug.measure import measure

__all__ = ["Accuracy", "accuracy", "measure"]
