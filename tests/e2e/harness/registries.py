"""A Registry in the cluster: applied, awaited, and used from this machine and from pods."""

import base64
import json
import ssl
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.harness.namespaces import Json, Namespace
from tests.e2e.harness.product import Product
from tests.e2e.harness.tunnel import tunnel
from tests.fixtures.images import Descriptor, make_oci_layout
from tests.fixtures.processes import run
from tests.operator.kube import eventually
from tests.toolchain import tool


@dataclass(frozen=True)
class Login:
    """A user of a registry."""

    username: str
    password: str = field(repr=False)

    @property
    def basic(self) -> str:
        """As the HTTP header and docker's configuration have it."""
        return base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


@dataclass(frozen=True)
class LiveRegistry:
    """One by its name. `make` applies it; what it is asked for is read from the cluster each time."""

    namespace: Namespace
    name: str

    @classmethod
    def make(
        cls, namespace: Namespace, product: Product, name: str = "team", spec: Mapping[str, Any] | None = None
    ) -> "LiveRegistry":
        """Applies it and waits until it is ready."""
        registry = cls(namespace, name)
        registry.apply({**product.spec, **(spec or {})})
        registry.await_ready()
        return registry

    def apply(self, spec: Mapping[str, Any]) -> None:
        metadata = {"name": self.name}
        registry = {"apiVersion": "regatta.dev/v1alpha1", "kind": "Registry", "metadata": metadata, "spec": spec}
        self.namespace.apply(registry)

    def await_ready(self, *, seconds: int = 180) -> None:
        """Waits until it serves and its last change is rolled out."""
        for condition in ("Ready=True", "Progressing=False"):
            self.namespace.wait(f"registry/{self.name}", f"condition={condition}", seconds=seconds)

    def delete(self) -> None:
        """Returns once it and its pods are gone."""
        self.namespace.kubectl("delete", "registry", self.name, "--timeout=120s")
        self.namespace.kubectl("wait", "pod", f"--selector={self.selector}", "--for=delete", "--timeout=120s")

    # --- What it is ---

    @property
    def resource(self) -> Json:
        return self.namespace.get("registry", self.name)

    @property
    def address(self) -> str:
        """`host:port` for clients in the cluster, and for those of `client`."""
        return str(self.resource["status"]["address"])

    @property
    def node_address(self) -> str:
        """`host:port` by which nodes pull: the full name, as they do not search domains."""
        return next(str(one) for one in self.resource["status"]["addresses"] if ".svc.cluster.local:" in one)

    @property
    def authority(self) -> bytes:
        """The certificate (PEM) that clients trust."""
        certificate: str = self.namespace.get("configmap", f"{self.name}-ca")["data"]["ca.crt"]
        return certificate.encode()

    @property
    def login(self) -> Login:
        """The one that was generated."""
        data = self.namespace.get("secret", f"{self.name}-admin")["data"]
        return Login(*(base64.b64decode(data[part]).decode() for part in ("username", "password")))

    @property
    def selector(self) -> str:
        return f"regatta.dev/registry={self.name}"

    def pods(self) -> list[Json]:
        """Its pods that are not going."""
        return self.namespace.pods(f"{self.selector},app.kubernetes.io/name=registry")

    def await_log(self, said: str, *, within: float = 120) -> str:
        """Waits until a pod has said something; returns the first line with that."""

        def line() -> str | None:
            names = [pod["metadata"]["name"] for pod in self.pods()]
            lines = [line for name in names for line in self.namespace.kubectl("logs", name).splitlines()]
            return next((line for line in lines if said in line), None)

        return str(eventually(line, within=within))

    # --- How it is used ---

    @contextmanager
    def client(self, login: Login | None = None) -> Iterator["Client"]:
        """A client on this machine while the block runs, as the generated login unless another is given."""
        address = self.address
        service, port = self.name, int(address.rpartition(":")[2])
        with (
            self.namespace.cluster.reach(self.namespace.name, service, port) as target,
            tunnel(target) as proxy,
            tempfile.TemporaryDirectory(prefix="regatta-client-") as folder,
        ):
            home = Path(folder)
            (home / "ca.crt").write_bytes(self.authority)
            auths = {address: {"auth": (login or self.login).basic}}
            (home / "config.json").write_text(json.dumps({"auths": auths}))
            yield Client(address, proxy, home)

    @contextmanager
    def http(self) -> Iterator[httpx.Client]:
        """A client on this machine that shows the protocol as it is, logged in as `client` is."""
        address, login = self.address, self.login
        trust = ssl.create_default_context(cadata=self.authority.decode())
        with (
            self.namespace.cluster.reach(self.namespace.name, self.name, int(address.rpartition(":")[2])) as target,
            tunnel(target) as proxy,
            httpx.Client(
                base_url=f"https://{address}",
                proxy=proxy,
                verify=trust,
                auth=(login.username, login.password),
                timeout=60,
                trust_env=False,
            ) as client,
        ):
            yield client

    def pull_secret(self, name: str = "pull", *, address: str | None = None, login: Login | None = None) -> Json:
        """A Secret by which pods pull from it, by `address` or the one for nodes; ready to be applied."""
        user = login or self.login
        entry = {"username": user.username, "password": user.password, "auth": user.basic}
        config = json.dumps({"auths": {address or self.node_address: entry}})
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name},
            "type": "kubernetes.io/dockerconfigjson",
            "stringData": {".dockerconfigjson": config},
        }

    def trust(self) -> None:
        """Lets the nodes pull from it, by its full name."""
        self.namespace.cluster.trust_registry(self.node_address, self.authority)


@dataclass(frozen=True)
class Client:
    """crane on this machine, logged in, with trust in nothing but the registry's own authority."""

    address: str
    proxy: str
    home: Path

    def crane(self, *args: str | Path) -> str:
        """Runs crane and returns its stdout; raises `CommandFailed`."""
        environment = {
            "HTTPS_PROXY": self.proxy,
            "NO_PROXY": "",
            "no_proxy": "",
            "DOCKER_CONFIG": str(self.home),
            "SSL_CERT_FILE": str(self.home / "ca.crt"),
            "SSL_CERT_DIR": str(self.home / "none"),
        }
        return run(tool("crane"), *args, env=environment, timeout=300)

    def push(self, image: Path, repository: str) -> str:
        """Pushes a docker archive or an OCI layout as `repository`, such as `app:1`; returns the manifest's digest."""
        reference = f"{self.address}/{repository}"
        self.crane("push", image, reference)
        return self.digest(repository)

    def push_random(self, repository: str, size: int = 1 << 20) -> Descriptor:
        """Pushes an image of random content, which is nowhere else."""
        with tempfile.TemporaryDirectory(prefix="regatta-image-") as folder:
            image = make_oci_layout(Path(folder), [repository.encode(), size])
            self.crane("push", folder, f"{self.address}/{repository}")
        return image

    def digest(self, repository: str) -> str:
        return self.crane("digest", f"{self.address}/{repository}").strip()

    def validate(self, repository: str) -> None:
        """Pulls the whole image and checks every digest; raises `CommandFailed`."""
        self.crane("validate", "--remote", f"{self.address}/{repository}")
