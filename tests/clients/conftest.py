"""Two registries over TLS, as teams have them: a private one, and one that anyone pulls from and CI pushes to."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.live import LiveRegistry, serving

USER, PASSWORD = "ci", "correct horse battery staple"
PUBLIC = [
    {"subjects": ["anonymous"], "repositories": ["**"], "actions": ["pull"]},
    {"subjects": [f"user:{USER}"], "repositories": ["**"], "role": "maintainer"},
]


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRegistry]:
    """Nobody gets in without a login."""
    with serving(tmp_path_factory.mktemp("private"), users={USER: PASSWORD}, tls=True, workers=2) as registry:
        yield registry


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRegistry]:
    """Anyone pulls, CI pushes."""
    settings = {"access": {"policies": PUBLIC}}
    folder = tmp_path_factory.mktemp("public")
    with serving(folder, settings, users={USER: PASSWORD}, tls=True, workers=2) as registry:
        yield registry


@pytest.fixture
def ca(private: LiveRegistry, tmp_path: Path) -> Path:
    """A folder with the private registry's CA, as skopeo and Docker want it."""
    assert private.authority is not None
    folder = tmp_path / "certificates"
    folder.mkdir()
    (folder / "ca.crt").write_bytes(private.authority.ca.read_bytes())
    return folder
