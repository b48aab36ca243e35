"""The versions of torch that are promised are those that csrc/bind is compiled against."""

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import check_headers


def test_oldest_promised_torch_is_checked() -> None:
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (torch,) = [name for name in needed if name.startswith("torch")]
    oldest = check_headers.VERSIONS[0]
    assert oldest.startswith(torch.removeprefix("torch>="))
    assert list(check_headers.VERSIONS) == sorted(check_headers.VERSIONS)


def test_one_library_serves_them_all() -> None:
    major, minor, _ = check_headers.VERSIONS[0].split(".")
    target = f"TORCH_TARGET_VERSION=0x{int(major):02x}{int(minor):02x}000000000000"
    assert target in (ROOT / "CMakeLists.txt").read_text()
    assert f"-D{target}" in check_headers.FLAGS
