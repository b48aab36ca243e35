"""Programs each in a process of its own, forked from one that has imported torch: the import takes seconds.

For what reads the environment when it is imported, ends its process, or is a command. lowbit itself is imported by each program anew.
"""

import functools
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

COMMAND = "from lowbit_compiler.cli.app import main; main()"
SERVER = """
import json, os, sys, tempfile, traceback
import rich.console, torch, torch._dynamo, torch._inductor.compile_fx, typer

assert not any(name.startswith("lowbit") for name in sys.modules)

def child(asked):
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.argv = ["-c", *asked["arguments"]]
    try:
        exec(compile(asked["code"], "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0

for line in sys.stdin:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if pid == 0:
            sys.stdin.close()
            for file, number in ((out, 1), (err, 2)):
                os.dup2(file.fileno(), number)
            code = child(json.loads(line))
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
        print(json.dumps([code, *texts]), flush=True)
"""


@dataclass(frozen=True)
class Ended:
    """How a program ended, and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


@functools.cache
def _server() -> "subprocess.Popen[str]":
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LOWBIT_")}
    return subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean)


def run(code: str, *arguments: str, environment: dict[str, str] | None = None, cwd: Path | None = None) -> Ended:
    """Run ``code`` as ``python -c`` would; ``environment`` replaces this process's."""
    asked = {"code": code, "arguments": arguments, "environment": dict(os.environ if environment is None else environment)}
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps({**asked, "cwd": str(cwd or Path.cwd())}) + "\n")
    server.stdin.flush()
    return Ended(*json.loads(server.stdout.readline()))


def lowbit(*arguments: str, cwd: Path | None = None, **variables: str) -> Ended:
    """Run the command line ``lowbit``, with ``variables`` added to the environment."""
    return run(COMMAND, *arguments, environment=os.environ | variables, cwd=cwd)
