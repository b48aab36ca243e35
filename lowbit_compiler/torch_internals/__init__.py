"""Everything that touches private parts of torch or transformers, one file a surface.

A release of torch may move any of it without notice. Each file has a canary in tests/torch_internals/ that names the surface and the
version that broke it. Every layer may import these files: they import torch alone, and Dynamo, Inductor and sympy only once called.
"""
