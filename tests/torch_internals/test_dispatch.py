import torch
from torch._subclasses.fake_tensor import FakeTensorMode


def test_the_types_of_ops(surface):
    assert isinstance(torch.ops.aten.mm, surface.OpOverloadPacket)
    assert isinstance(torch.ops.aten.mm.default, surface.OpOverload)
    assert isinstance(torch.ops.higher_order.cond, surface.HigherOrderOperator)


def test_a_schema_tells_what_an_op_takes_and_writes_to(surface):
    schema = torch.ops.aten.add_.Tensor._schema
    assert schema.name == "aten::add_"
    assert schema.is_mutable
    assert schema.arguments[0].alias_info.is_write
    assert [a.name for a in schema.arguments if a.kwarg_only and a.has_default_value()] == ["alpha"]


def test_a_mode_sees_every_call(surface):
    seen = []

    class Watch(surface.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    with Watch():
        torch.ones(2, 2) @ torch.ones(2, 2)
    assert torch.ops.aten.mm.default in seen


def test_sizes_stay_symbolic_under_the_python_dispatcher(surface):
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

    context = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC, DimDynamic.STATIC])
    mode = FakeTensorMode(shape_env=ShapeEnv())
    x = mode.from_tensor(torch.ones(5, 8), symbolic_context=context)
    w = mode.from_tensor(torch.ones(3, 8))
    with surface.enable_python_dispatcher(), mode:
        y = torch.ops.aten.linear.default(x, w)
    assert isinstance(y.shape[0], torch.SymInt)


def test_an_op_has_kernels_of_its_own_or_one_that_runs_anywhere(surface):
    assert surface.has_kernel(torch.ops.aten.mm.default, "cpu")
    assert not surface.has_kernel(torch.ops.aten.linear.default, "cuda")
    with torch.library._scoped_library("canary", "DEF") as library:
        library.define("anywhere(Tensor x) -> Tensor")
        library.impl("anywhere", lambda x: x.clone(), "CompositeExplicitAutograd")
        assert not surface.has_kernel(torch.ops.canary.anywhere.default, "cpu")
