"""Bias correction: the mean error of each output, which rounding the weights makes, taken off the bias (arXiv 1906.04721, section 4.2)."""

from lowbit_compiler.preparing.block import Block
from lowbit_compiler.preparing.method import Method
from lowbit_compiler.runtime.treatments.treatment import at_once


class BiasCorrection(Method):
    """bias + (W - W quantized) E[x] for linears with a bias.

    It changes biases of the float model, which is meant to be run in low precision from then on.
    """

    name = "bias_correction"

    def apply(self, block: Block) -> None:
        """Correct every linear that has a bias."""
        for inputs in list(block.inputs()):
            for layer in inputs.layers:
                if layer.module.bias is None:
                    continue
                mean = layer.plan.treatment.weight(at_once, inputs.mean.unsqueeze(0)).squeeze(0)
                missing = (layer.treated - layer.plan.w.dequantize(layer.settled())) @ mean
                block.replace(f"{block.name_of(layer.module)}.bias", layer.module.bias.float() + missing)
                layer.made_by.append(self.name)
