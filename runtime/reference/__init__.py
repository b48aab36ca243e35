"""The arithmetic of docs/arithmetic.md in plain torch: the specification, and the fallback on every device."""
