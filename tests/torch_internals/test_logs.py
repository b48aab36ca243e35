import importlib.util
import os
import subprocess
import sys

PROGRAM = """
from lowbit_compiler.torch_internals import logs
assert logs.tracing()
logs.artifact("canary", "what it sings")
"""


def test_the_structured_trace_gets_what_it_is_given(surface, tmp_path):
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, env={**os.environ, "TORCH_TRACE": str(tmp_path)})
    text = "".join(path.read_text() for path in tmp_path.iterdir())
    assert '"name": "canary"' in text
    assert "what it sings" in text


def test_nobody_traces_here(surface):
    assert not surface.tracing()


def test_the_exporter_speaks_through_this_logger(surface):
    assert importlib.util.find_spec(surface.exporter.name) is not None, "loggers are named after their packages"
