"""Real clients pull through a cache, each in its own way; what they get is what the upstream has."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.docker import Dockerd
from tests.fixtures.images import make_docker_archive, make_oci_index
from tests.fixtures.processes import CommandFailed, free_port, run, server
from tests.fixtures.tools import Need
from tests.server.live import LiveRegistry, serving, until

NAME = "library/app"


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRegistry]:
    with serving(tmp_path_factory.mktemp("upstream")) as upstream:
        yield upstream


@pytest.fixture
def cache(upstream: LiveRegistry, tmp_path: Path) -> Iterator[LiveRegistry]:
    """A cache of everything the upstream has, which containerd may ask for `docker.io`."""
    settings = {"proxy": {"remoteurl": upstream.url, "ns": ["docker.io"]}}
    with serving(tmp_path / "cache", settings, workers=2) as cache:
        yield cache


def test_crane_and_skopeo(
    crane: Path, skopeo: Path, upstream: LiveRegistry, cache: LiveRegistry, tmp_path: Path
) -> None:
    index = make_oci_index(tmp_path / "index", {"linux/amd64": [1, 3 << 20], "linux/arm64/v8": [2000]})
    run(crane, "push", tmp_path / "index", f"{upstream.address}/multi:1")
    assert run(crane, "digest", f"{cache.address}/multi:1").strip() == index.digest
    run(crane, "validate", "--remote", f"{cache.address}/multi:1")
    assert run(crane, "ls", f"{cache.address}/multi").split() == ["1"]
    with pytest.raises(CommandFailed, match="this registry is a pull-through cache of"):
        run(crane, "push", tmp_path / "index", f"{cache.address}/multi:2")
    policy = tmp_path / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    source, target = f"docker://{cache.address}/multi:1", f"oci:{tmp_path / 'out'}:1"
    run(skopeo, f"--policy={policy}", "copy", "--all", "--src-tls-verify=false", source, target)
    assert json.loads((tmp_path / "out" / "index.json").read_text())["manifests"][0]["digest"] == index.digest


def test_docker_s_mirror(
    dockerd: Dockerd, crane: Path, upstream: LiveRegistry, cache: LiveRegistry, tmp_path: Path
) -> None:
    """`registry-mirrors` of an engine: what is Docker Hub's comes from the cache, without its name changing."""
    archive = make_docker_archive(tmp_path / "image.tar", [b"one", 5 << 20], name="app:1")
    run(crane, "push", archive, f"{upstream.address}/{NAME}:1")
    with dockerd.mirror(cache.url):
        dockerd.docker("pull", "app:1")
    assert "app:1" in dockerd.docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}")
    misses = {"kind": "blob", "result": "miss"}
    until(lambda: cache.metric("regatta_proxy_pulls_total", **misses) == 3, "both workers tell what they fetched")
    dockerd.docker("rmi", "app:1")


def test_containerd_s_mirror(
    need: Need, crane: Path, upstream: LiveRegistry, cache: LiveRegistry, tmp_path: Path
) -> None:
    """`hosts.toml`: containerd asks the cache with `ns=docker.io`."""
    containerd, ctr = need("containerd"), need("ctr")
    index = make_oci_index(tmp_path / "index", {"linux/amd64": [1, 3 << 20]})
    run(crane, "push", tmp_path / "index", f"{upstream.address}/{NAME}:2")
    hosts = tmp_path / "hosts" / "docker.io"
    hosts.mkdir(parents=True)
    (hosts / "hosts.toml").write_text(f'server = "http://127.0.0.1:{free_port()}"\n[host."{cache.url}"]\n')
    socket = tmp_path / "containerd.sock"
    settings = tmp_path / "containerd.toml"
    settings.write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
    folders = [f"--root={tmp_path / 'root'}", f"--state={tmp_path / 'state'}"]
    with server(
        containerd, f"--config={settings}", f"--address={socket}", *folders, log=tmp_path / "containerd.log"
    ) as running:
        until(socket.exists, "containerd listens")
        running.check_alive()
        run(ctr, "--address", socket, "content", "fetch", "--hosts-dir", hosts.parent, f"docker.io/{NAME}:2")
        assert index.digest in run(ctr, "--address", socket, "content", "ls", "-q")
    asked = [entry["path"] for entry in cache.entries(status=200) if "path" in entry]
    assert f"/v2/{NAME}/manifests/2" in asked
