"""What needs transformers says so where there is none."""

from helpers import forks


def test_int8_cache() -> None:
    done = forks.run("import sys; sys.modules['transformers'] = None; import lowbit_compiler; lowbit_compiler.Int8Cache")
    assert "ImportError: lowbit_compiler.Int8Cache needs transformers 5 or newer (pip install 'transformers>=5')" in done.stderr
