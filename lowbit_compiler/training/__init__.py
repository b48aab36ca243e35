"""Linears that train: found in Dynamo's graph, also in bodies of checkpointed regions, and rewritten to ops whose gradients are of low precision."""
