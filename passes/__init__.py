"""Graph passes from the captured ATen graph to packed low-bit ops."""

import lowbit_compiler.runtime.ops  # noqa: F401  passes name lowbit:: ops, so their schemas come first
