"""torch's own tools see lowbit: TORCH_LOGS, TORCH_TRACE (what tlparse reads) and TORCH_COMPILE_DEBUG. Each in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import torch
model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 64), torch.nn.Tanh()).eval()
with torch.no_grad():
    torch.compile(model, backend="lowbit", options={"remainder": "%s", "plan": "always"})(torch.randn(4, 64))
"""


def run(folder: Path, remainder: str = "eager", **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", CODE % remainder], capture_output=True, text=True, check=False, cwd=folder, env=os.environ | environment
    )
    assert result.returncode == 0, result.stderr
    return result.stderr


def test_torch_logs(tmp_path: Path) -> None:
    short = run(tmp_path, TORCH_LOGS="lowbit_compiler")
    assert "recipe int8: 2 of 2 sites rewritten" in short
    assert "pass quantize" not in short


def artifacts(folder: Path) -> dict[str, str]:
    """Return name -> text of the artifacts in a trace."""
    (file,) = folder.glob("dedicated_log_torch_trace_*.log")
    found: dict[str, str] = {}
    name = ""
    for line in file.read_text().splitlines():
        if line.startswith("\t"):
            if name in found:
                found[name] += line[1:] + "\n"
            continue
        event = json.loads(line[line.index("{") :])
        name = event.get("artifact", {}).get("name", "")
        if name.startswith("lowbit_"):
            found[name] = ""
            assert event["frame_id"] == 0
    return found


def test_torch_trace(tmp_path: Path) -> None:
    assert "lowbit" not in run(tmp_path, TORCH_TRACE=str(tmp_path / "trace"))  # no logs, unasked
    found = artifacts(tmp_path / "trace")
    assert "aten.linear" in found["lowbit_00_capture"]
    assert "made by quantize" in found["lowbit_09_quantize.diff"]
    assert "lowbit_05_plan.diff" not in found
    assert "2 of 2 sites rewritten" in found["lowbit_report"]


@pytest.mark.model
def test_compile_debug_and_full_logs(tmp_path: Path) -> None:
    full = run(tmp_path, "inductor", TORCH_COMPILE_DEBUG="1", TORCH_LOGS="+lowbit_compiler")
    assert "[0/0] pass quantize: 2 rewrites" in full
    assert "[0/0] rewritten 0 linear 4 x 64 -> 128: lowbit::linear_s8s8_rotated" in full
    (folder,) = (tmp_path / "torch_compile_debug").glob("run_*")
    assert (folder / "torchinductor").is_dir()
    written = {path.name for path in (folder / "lowbit" / "graph_0").iterdir()}
    assert {"00_capture.txt", "09_quantize.diff", "graph.json", "view.html", "index.md", "report.txt"} <= written
