"""Nested containers as flat lists of their leaves."""

from torch.utils._pytree import tree_flatten, tree_flatten_with_path, tree_leaves, tree_map, tree_map_only, tree_unflatten

__all__ = ["tree_flatten", "tree_flatten_with_path", "tree_leaves", "tree_map", "tree_map_only", "tree_unflatten"]
