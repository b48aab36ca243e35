"""Weights quantized with the activations in view, before a model is compiled: ``lowbit.prepare``."""
