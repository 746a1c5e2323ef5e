"""buildah: an image that is made, pushed, and pulled by another who has nothing of it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.conftest import PASSWORD, USER, ca_of
from tests.fixtures.processes import CommandFailed, run
from tests.fixtures.tools import Need
from tests.server.live import LiveRegistry

REFUSED = "unauthorized|authentication required|denied|invalid username"
POLICY = '{"default": [{"type": "insecureAcceptAnything"}]}'


class Buildah:
    """The command with images, logins, trust and a policy of its own."""

    def __init__(self, program: Path, registry: LiveRegistry, home: Path) -> None:
        (home / "certificates").mkdir(parents=True)
        (home / "certificates/ca.crt").write_bytes(ca_of(registry).read_bytes())
        (home / "policy.json").write_text(POLICY)
        (home / "auth.json").write_text("{}")
        places = f"--root={home / 'images'}", f"--runroot={home / 'run'}", "--storage-driver=vfs"
        self._command = (program, *places)
        self._client = (f"--cert-dir={home / 'certificates'}", f"--authfile={home / 'auth.json'}")
        self._policy = f"--signature-policy={home / 'policy.json'}"
        self.at = registry.address

    def __call__(self, *args: str | Path) -> str:
        return run(*self._command, *args).strip()

    def login(self) -> None:
        command = (*self._command, "login", *self._client, f"--username={USER}", "--password-stdin", self.at)
        run(*command, input=PASSWORD)

    def push(self, image: str, name: str) -> None:
        self("push", "--quiet", *self._client, self._policy, image, f"docker://{self.at}/{name}")

    def pull(self, name: str) -> str:
        """The image's id."""
        return self("pull", "--quiet", *self._client, self._policy, f"docker://{self.at}/{name}")


@pytest.fixture
def buildah(need: Need, private: LiveRegistry, tmp_path: Path) -> Callable[[str], Buildah]:
    """`buildah("ci")` is that of one who is not logged in yet."""
    return lambda who: Buildah(need("buildah"), private, tmp_path / who)


def test_an_image_that_was_made_is_pushed_and_pulled_by_another(
    buildah: Callable[[str], Buildah], tmp_path: Path
) -> None:
    maker, other = buildah("maker"), buildah("other")
    (tmp_path / "greeting").write_text("ahoy")
    container = maker("from", "scratch")
    maker("copy", "--quiet", container, tmp_path / "greeting", "/greeting")
    maker("config", "--label=is=made", container)
    image = maker("commit", "--quiet", container)
    with pytest.raises(CommandFailed, match=REFUSED):
        maker.push(image, "made/app:1")
    maker.login()
    maker.push(image, "made/app:1")
    with pytest.raises(CommandFailed, match=REFUSED):
        other.pull("made/app:1")
    other.login()
    pulled = other.pull("made/app:1")
    assert json.loads(other("inspect", "--type=image", pulled))["OCIv1"]["config"]["Labels"]["is"] == "made"
    root = Path(other("mount", other("from", "--pull=never", pulled)))
    assert (root / "greeting").read_text() == "ahoy"
    other("umount", "--all")
