"""Registries as clients meet them: over TLS, with logins."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.processes import run
from tests.server.live import LiveRegistry, serving

USER, PASSWORD = "ci", "s3cret word"
PUBLIC = [
    {"subjects": ["anonymous"], "repositories": ["public/**"], "actions": ["pull"]},
    {"subjects": ["user:ci"], "repositories": ["**"], "role": "admin"},
]


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRegistry]:
    """Nothing without a login."""
    folder = tmp_path_factory.mktemp("private")
    with serving(folder, users={USER: PASSWORD}, tls=True, workers=2) as registry:
        yield registry


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRegistry]:
    """Everyone pulls what is below `public/`; pushes need a login."""
    folder = tmp_path_factory.mktemp("public")
    with serving(folder, {"access": {"policies": PUBLIC}}, users={USER: PASSWORD}, tls=True, workers=2) as registry:
        yield registry


class Client:
    """A client written in Go, with an authority it trusts and a home of its own, where its logins are."""

    def __init__(self, program: Path, registry: LiveRegistry, home: Path) -> None:
        self._program = program
        self._environ = {
            "SSL_CERT_FILE": str(ca_of(registry)),
            "HOME": str(home),
            "DOCKER_CONFIG": str(home / ".docker"),
        }
        self.at = registry.address

    def __call__(self, *args: str | Path, input: str | None = None) -> str:  # noqa: A002, as in `run`
        return run(self._program, *args, env=self._environ, input=input)


def ca_of(registry: LiveRegistry) -> Path:
    """The certificate of the authority that clients have to trust."""
    assert registry.authority is not None
    return registry.authority.ca
