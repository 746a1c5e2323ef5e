"""A registry whose logins are a token server's, as clients of every kind find their way there."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.conftest import ca_of
from tests.fixtures.docker import VERIFIED_ADDRESS, VERIFIED_HOST, Dockerd
from tests.fixtures.images import make_docker_archive, make_oci_layout
from tests.fixtures.issuer import ISSUER, SERVICE, USERS, issuing
from tests.fixtures.processes import CommandFailed, run
from tests.server.live import LiveRegistry, serving

((USER, PASSWORD),) = USERS.items()
REFUSED = "unauthorized|authentication required|denied|401|UNAUTHORIZED"


@pytest.fixture
def host() -> str:
    return "127.0.0.1"


@pytest.fixture
def tls() -> bool:
    return True


@pytest.fixture
def registry(tmp_path: Path, host: str, tls: bool) -> Iterator[LiveRegistry]:
    with issuing(tmp_path / "issuer") as issuer:
        realm = issuer.realm.replace("127.0.0.1", "localhost")  # crane goes to no private address, unless by name
        token = {"realm": realm, "service": SERVICE, "issuer": ISSUER, "jwks": str(issuer.jwks)}
        settings = {"auth": {"token": token}}
        with serving(tmp_path / "registry", settings, tls=tls, workers=2, host=host) as running:
            yield running


@pytest.mark.parametrize("host", [VERIFIED_ADDRESS])
def test_docker(dockerd: Dockerd, registry: LiveRegistry, tmp_path: Path) -> None:
    name = f"{VERIFIED_HOST}:{registry.port}"
    image, private = f"{name}/public/app:1", f"{name}/private/app:1"
    archive = make_docker_archive(tmp_path / "image.tar", [b"one", 1 << 20], name=image)
    dockerd.docker("load", "-i", str(archive))
    dockerd.docker("tag", image, private)
    with dockerd.trust(name, ca_of(registry)):
        with pytest.raises(CommandFailed, match=REFUSED):
            dockerd.docker("push", image)
        with pytest.raises(CommandFailed, match=REFUSED):
            dockerd.docker("login", "--username", USER, "--password-stdin", name, input="wrong")
        dockerd.docker("login", "--username", USER, "--password-stdin", name, input=PASSWORD)
        dockerd.docker("push", image)
        assert "Mounted from public/app" in dockerd.docker("push", private)
        dockerd.docker("logout", name)
        dockerd.docker("rmi", image, private)
        dockerd.docker("pull", image)
        with pytest.raises(CommandFailed, match=REFUSED):
            dockerd.docker("pull", private)


def test_skopeo(skopeo: Path, registry: LiveRegistry, tmp_path: Path) -> None:
    certificates, policy = tmp_path / "certificates", tmp_path / "policy.json"
    certificates.mkdir()
    shutil.copy(ca_of(registry), certificates / "ca.crt")
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    make_oci_layout(tmp_path / "in", [b"one", 1 << 20])
    auth = f"--authfile={tmp_path / 'auth.json'}"
    source, image = f"oci:{tmp_path / 'in'}:latest", f"docker://{registry.address}/public/app:1"
    push = [skopeo, f"--policy={policy}", "copy", auth, f"--dest-cert-dir={certificates}"]
    with pytest.raises(CommandFailed, match=REFUSED):
        run(*push, source, image)
    run(*push, f"--dest-creds={USER}:{PASSWORD}", source, image)
    ask = [skopeo, "inspect", auth, f"--cert-dir={certificates}"]
    run(*ask, image)
    run(*[skopeo, "delete"], *ask[2:], f"--creds={USER}:{PASSWORD}", image)
    with pytest.raises(CommandFailed, match="manifest unknown"):
        run(*ask, image)


@pytest.mark.parametrize("tls", [False])  # else it wants a token server with TLS, too
def test_crane(crane: Path, registry: LiveRegistry, tmp_path: Path) -> None:
    environ = {"DOCKER_CONFIG": str(tmp_path / "docker")}
    make_oci_layout(tmp_path / "layout", [b"one", 1 << 20])
    image = f"{registry.address}/public/app:1"
    with pytest.raises(CommandFailed, match=REFUSED):
        run(crane, "push", tmp_path / "layout", image, env=environ)
    login = ("auth", "login", "--username", USER, "--password-stdin", registry.address)
    run(crane, *login, env=environ, input=PASSWORD)
    run(crane, "push", tmp_path / "layout", image, env=environ)
    run(crane, "copy", image, f"{registry.address}/private/app:2", env=environ)
    assert "private/app" in run(crane, "catalog", registry.address, env=environ)
    run(crane, "auth", "logout", registry.address, env=environ)
    run(crane, "validate", "--remote", image, env=environ)
    with pytest.raises(CommandFailed, match=REFUSED):
        run(crane, "digest", f"{registry.address}/private/app:2", env=environ)
