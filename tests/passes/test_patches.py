"""A convolution of patches becomes a linear; every other one stays, and the report says why."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers import bounds
from helpers.compiled import compiled, linears, reports_of
from helpers.graphs import before_and_after, calls, rerun
from helpers.onnx_files import Exported
from lowbit_compiler.passes.normalize import Normalize
from lowbit_compiler.passes.site import Reason

torch.manual_seed(0)
PATCHES: dict[str, tuple[nn.Module, Tensor]] = {
    "sound": (nn.Conv1d(6, 40, 7, 7), torch.randn(2, 6, 21)),
    "image": (nn.Conv2d(3, 48, (4, 6), (4, 6)), torch.randn(2, 3, 12, 24)),
    "video": (nn.Conv3d(3, 40, (2, 4, 4), (2, 4, 4), bias=False), torch.randn(2, 3, 4, 8, 12)),
    "valid": (nn.Conv2d(3, 48, 8, 8, padding="valid"), torch.randn(1, 3, 16, 24)),
    "channels last": (nn.Conv2d(3, 48, 4, 4), torch.randn(2, 3, 8, 12).to(memory_format=torch.channels_last)),
}
OTHERS: dict[str, tuple[nn.Module, Tensor, str]] = {
    "overlapping": (nn.Conv2d(3, 8, 4, 2), torch.randn(1, 3, 8, 8), "stride (2, 2), and its kernel is (4, 4)"),
    "gaps": (nn.Conv1d(3, 8, 2, 4), torch.randn(1, 3, 8), "stride (4,)"),
    "padded": (nn.Conv2d(3, 8, 4, 4, padding=(0, 1)), torch.randn(1, 3, 8, 8), "padding (0, 1)"),
    "dilated": (nn.Conv2d(3, 8, 2, 2, dilation=2), torch.randn(1, 3, 8, 8), "dilation (2, 2)"),
    "groups": (nn.Conv2d(4, 8, 4, 4, groups=2), torch.randn(1, 4, 8, 8), "2 groups"),
    "pixels": (nn.Conv2d(3, 8, 1), torch.randn(1, 3, 8, 8), "single elements"),
    "a rest": (nn.Conv2d(3, 8, 4, 4), torch.randn(1, 3, 8, 9), "(8, 9) that is no multiple of its kernel (4, 4)"),
    "no batch": (nn.Conv2d(3, 8, 4, 4), torch.randn(3, 8, 8), "3 dimensions"),
    "transposed": (nn.ConvTranspose2d(3, 8, 4, 4), torch.randn(1, 3, 8, 8), "transposed"),
}


@pytest.mark.parametrize("name", PATCHES)
def test_patches(name: str) -> None:
    """Against float64: K products and a bias, summed in any order."""
    conv, x = PATCHES[name]
    captured, ctx, _, (got,) = before_and_after(conv, (x,), "normalize")
    assert calls(captured.gm).count("aten.linear") == 1
    assert not [call for call in calls(captured.gm) if "conv" in call]
    call: Any = {3: nn.functional.conv1d, 4: nn.functional.conv2d, 5: nn.functional.conv3d}[x.dim()]
    weight, bias = conv.weight.double(), None if conv.bias is None else conv.bias.double()
    with torch.no_grad():
        want, before = call(x.double(), weight, bias, conv.stride), conv(x)
        size = call(x.double().abs(), weight.abs(), None if bias is None else bias.abs(), conv.stride)
    bounds.assert_within(got, want, bounds.rounding(want, bounds.EPS * (weight[0].numel() + 1) * size, torch.float32))
    assert got.stride() == before.stride()  # it is the graph's output, so whoever asked may see its memory
    assert rerun(Normalize(), captured, ctx) == 0


@pytest.mark.parametrize("name", OTHERS)
def test_what_stays(name: str) -> None:
    conv, x, why = OTHERS[name]
    captured, ctx, (want,), (got,) = before_and_after(conv, (x,), "find")
    assert "aten.linear" not in calls(captured.gm)
    assert torch.equal(got, want)
    (site,) = ctx.sites
    assert (site.kind, site.reason) == ("convolution", Reason.UNSUPPORTED_OP)
    assert why in site.detail


def test_an_activation_for_a_weight_stays() -> None:
    _, ctx, *_ = before_and_after(
        lambda x, w: nn.functional.conv2d(x, w, stride=4), (torch.randn(1, 3, 8, 8), torch.randn(5, 3, 4, 4)), "find"
    )
    assert [(site.kind, "not a parameter" in site.detail) for site in ctx.sites] == [("convolution", True)]


class Embedding(nn.Module):
    """What a vision transformer begins with."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.out = nn.Conv2d(3, 64, 8, 8), nn.Linear(64, 40)

    def forward(self, image: Tensor) -> Tensor:
        return self.out(self.patches(image).flatten(2).transpose(1, 2))


def test_any_batch_and_sizes_that_may_change() -> None:
    """The batch may change; where the image's sizes may, the convolution stays."""
    model, batches = Embedding().eval(), [torch.randn(b, 3, 16, 24) for b in (2, 3, 5)]
    for sizes, rewritten in ((False, ["patches", "out"]), (True, ["out"])):
        torch._dynamo.reset()
        run = compiled(model, "int8-weight-only", dynamic=None)
        for x in batches:
            torch._dynamo.maybe_mark_dynamic(x, 0)
            for dim in (2, 3) if sizes else ():
                torch._dynamo.mark_dynamic(x, dim)
        with torch.no_grad():
            got, (report,) = reports_of(lambda run=run: [run(x) for x in batches])  # type: ignore[misc]
            assert [site.module for site in linears(report)] == rewritten
            for y, x in zip(got, batches, strict=True):
                assert float((y - model(x)).norm() / model(x).norm()) < 2.0**-6  # of two layers with weights in 8 bits


@pytest.mark.parametrize("form", ["integer", "qdq"])
def test_onnx(form: str, tmp_path: Path) -> None:
    exported = Exported(tmp_path, Embedding().eval(), (torch.randn(2, 3, 16, 24),), form=form, dynamic_shapes={"image": {0: "batch"}})
    assert {site.module for site in exported.report.rewritten} == {"patches", "out"}
    assert "Conv" not in {node.op_type for node in exported.proto.graph.node}
    result = exported.agreement((torch.randn(3, 3, 16, 24),))
    assert result.agrees, str(result)
