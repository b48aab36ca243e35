"""Ways into an op, and what is asked of the errors of each."""

import torch
from torch.utils._pytree import tree_map_only

from helpers.children import outcomes

L = torch.ops.lowbit
KEYS, KEY = torch._C.DispatchKeySet, torch._C.DispatchKey


def on_meta(op, arguments):
    return getattr(L, op)(*tree_map_only(torch.Tensor, lambda a: a.to("meta"), arguments))


WAYS = {
    "called": lambda op, arguments: getattr(L, op)(*arguments),
    "kernel": lambda op, arguments: getattr(L, op).default.redispatch(KEYS(KEY.CPU), *arguments),
    "reference": lambda op, arguments: getattr(L, op).default.redispatch(KEYS(KEY.PrivateUse1), *arguments),  # a key that has no kernel
    "meta": on_meta,
}
WITH_VALUES = ("called", "kernel", "reference")


def replaced(arguments, i, value):
    return (*arguments[:i], value, *arguments[i + 1 :])


def compare(op, calls, words):
    """Make the calls in a child; each must raise an error of ``op`` with its words."""
    got = outcomes(calls)
    wrong = {
        name: got.get(name, "not reached")
        for name in calls
        if not (got.get(name, "").startswith("RuntimeError") and f"lowbit::{op}: expected " in got[name] and words[name] in got[name])
    }
    assert not wrong, "\n".join(f"{name}: {text}, not {words[name]!r}" for name, text in wrong.items())


def linear(i, change):
    return lambda a: replaced(a, i, change(a[i]))
