"""The tests in kind's cluster where the image of its node can't be pulled: `python -m tests.e2e.cluster.offline_kind`.

A Docker engine of its own, the image made on the spot (`node_image.py`), then pytest with the arguments given, by
default for all end-to-end tests. It shows that the way most users take works; on their machines nothing here is needed.
Needs Linux and root.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.e2e.cluster import node_image
from tests.e2e.cluster.kind import IMAGE
from tests.e2e.cluster.node import SYSCTLS
from tests.e2e.cluster.ways import VARIABLE
from tests.fixtures.docker import Dockerd, docker_engine
from tests.fixtures.processes import CommandFailed
from tests.toolchain import tool

# kind asks for containers with every capability, and runc refuses one that root here does not have. This program goes
# before runc: it takes CAP_SYS_RESOURCE from what is to be started.
_RUNTIME = """\
#!{python} -IS
import json, os, sys
words = sys.argv[1:]
for option, file in (("--bundle", "/config.json"), ("--process", "")):
    if option in words:
        path = words[words.index(option) + 1] + file
        with open(path) as opened:
            spec = json.load(opened)
        for held in spec.get("process", spec).get("capabilities", {{}}).values():
            held[:] = [name for name in held if name != "CAP_SYS_RESOURCE"]
        with open(path, "w") as opened:
            json.dump(spec, opened)
os.execv("{runc}", ["runc", *words])
"""

_MODULES = Path("/lib/modules")  # kind mounts it into its node; Docker makes it where the kernel has no modules
_SETTINGS = (*SYSCTLS, "fs/file-max")
"""What the kubelet and systemd set for the whole machine."""


def main(arguments: list[str]) -> int:
    with _machine_as_it_was(), _docker() as docker:
        os.environ |= {"DOCKER_HOST": docker.host, VARIABLE: "kind"}
        os.environ[IMAGE] = node_image.make()
        return subprocess.run([sys.executable, "-m", "pytest", *(arguments or ["tests/e2e"])], check=False).returncode


@contextmanager
def _docker() -> Iterator[Dockerd]:
    """An engine that starts privileged containers even so."""
    with tempfile.TemporaryDirectory(prefix="regatta-runtime-") as folder:
        runtime = Path(folder) / "runtime"
        runtime.write_text(_RUNTIME.format(python=sys.executable, runc=tool("runc")))
        runtime.chmod(0o755)
        options = (f"--add-runtime=lesser={runtime}", "--default-runtime=lesser", "--ip-forward=false")
        with docker_engine(tool("dockerd"), tool("docker"), tool("busybox"), *options) as docker:
            try:
                yield docker
            finally:
                with suppress(CommandFailed):  # kind makes it, and leaves it
                    docker.docker("network", "rm", "kind")


@contextmanager
def _machine_as_it_was() -> Iterator[None]:
    settings = {path: path.read_text() for path in (Path("/proc/sys", name) for name in _SETTINGS)}
    made = not _MODULES.exists()
    try:
        yield
    finally:
        for path, value in settings.items():
            path.write_text(value)
        if made and _MODULES.exists():
            _MODULES.rmdir()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
