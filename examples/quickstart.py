"""Compile a model, compare it with the float model, and look at what was done."""

import torch

import lowbit_compiler as lowbit

model = torch.nn.Sequential(torch.nn.Linear(512, 2048), torch.nn.GELU(), torch.nn.Linear(2048, 512)).eval().bfloat16()
x = torch.randn(64, 512).bfloat16()

compiled = torch.compile(model, backend="lowbit", options={"recipe": "int8"})
with torch.no_grad():  # a graph that needs gradients is left in float
    got, want = compiled(x).float(), model(x).float()

print(f"cosine to the float model: {torch.nn.functional.cosine_similarity(got.flatten(), want.flatten(), 0).item():.5f}\n")
print(lowbit.last_report())
