"""containerd, as Kubernetes' nodes have it: pulls and pushes by `hosts.toml`, with a login."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.clients.conftest import PASSWORD, USER, ca_of
from tests.fixtures.images import make_oci_index
from tests.fixtures.processes import CommandFailed, run, server
from tests.fixtures.tools import Need
from tests.server.content import Repository
from tests.server.live import LiveRegistry, until

REFUSED = "401|unauthorized|no basic auth credentials|authorization failed"
LOGIN = f"{USER}:{PASSWORD}"

_CONFIG = """\
version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
path = "{folder}/opt"
"""
_HOSTS = """\
server = "https://{at}"
[host."https://{at}"]
ca = "{ca}"
"""


class Containerd:
    """A node's, with nothing in it, seen through ctr."""

    def __init__(self, ctr: Path, socket: Path, hosts: Path, registry: LiveRegistry) -> None:
        self._ctr = (ctr, "--address", socket)
        self._hosts = hosts
        self.at = registry.address

    def __call__(self, *args: str | Path) -> str:
        return run(*self._ctr, *args)

    def transfer(self, verb: str, name: str, *options: str, login: str | None = LOGIN) -> None:
        """`pull` or `push`, or `fetch` for what is not to be unpacked."""
        command = ("content", "fetch") if verb == "fetch" else ("images", verb)
        user = ("--user", login) if login else ()
        self(*command, "--hosts-dir", self._hosts, *user, *options, f"{self.at}/{name}")

    def images(self) -> dict[str, str]:
        """The digests by name."""
        lines = [line.split() for line in self("images", "ls").splitlines()[1:]]
        return {name.removeprefix(f"{self.at}/"): digest for name, _, digest, *_ in lines}


@pytest.fixture
def node(need: Need, private: LiveRegistry, tmp_path: Path) -> Iterator[Callable[[str], Containerd]]:
    """`node("a")` starts one."""
    with ExitStack() as running:

        def start(name: str) -> Containerd:
            folder = tmp_path / name
            socket, hosts = folder / "s", folder / "hosts"
            (hosts / private.address).mkdir(parents=True)
            (hosts / private.address / "hosts.toml").write_text(_HOSTS.format(at=private.address, ca=ca_of(private)))
            (folder / "config.toml").write_text(_CONFIG.format(folder=folder, socket=socket))
            program = need("containerd")
            running.enter_context(server(program, "--config", folder / "config.toml", log=folder / "log"))
            until(socket.exists, "containerd listens")
            return Containerd(need("ctr"), socket, hosts, private)

        yield start


def test_an_image_of_two_platforms_goes_from_one_node_to_another(
    node: Callable[[str], Containerd], private: LiveRegistry, tmp_path: Path
) -> None:
    first, second = node("first"), node("second")
    layers = {f"linux/{arch}": [arch.encode()] for arch in ("amd64", "arm64")}
    top = make_oci_index(tmp_path / "image", layers, tag="1")
    run("tar", "-C", tmp_path / "image", "-cf", tmp_path / "image.tar", ".")
    name = "moved/app:1"
    base = f"--base-name={first.at}/moved/app"
    first("images", "import", "--all-platforms", "--no-unpack", base, tmp_path / "image.tar")
    with pytest.raises(CommandFailed, match=REFUSED):
        first.transfer("push", name, login=None)
    first.transfer("push", name)
    with pytest.raises(CommandFailed, match=REFUSED):
        second.transfer("fetch", name, "--all-platforms", login=f"{USER}:wrong")
    second.transfer("fetch", name, "--all-platforms")
    assert second.images() == {name: top.digest}
    moved = Repository(private.client(USER, PASSWORD), "moved/app")
    assert moved.get_manifest("1").headers["docker-content-digest"] == top.digest
