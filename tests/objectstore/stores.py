"""Real servers of the three protocols, each with a bucket, as long as a block."""

import base64
import hashlib
import hmac
import itertools
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.fixtures.processes import free_port, server
from tests.fixtures.tools import Need
from tests.server.pki import Pair

STARTED_WITHIN = 150
"""Seconds; Node.js takes many on a busy machine."""
EMPTY: Mapping[str, str] = {}
KEY, SECRET = "test", "secret of the tests"
GCS_XML = Path(__file__).with_name("gcs_xml.py")
AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # azurite's own


@dataclass(frozen=True)
class Program:
    """A program and the port it listens on."""

    command: list[str | Path]
    port: int


@dataclass
class Store:
    """A running server, which can be stopped and started again with its data."""

    kind: str
    folder: Path
    programs: list[Program]
    settings: dict[str, Any]
    """Of the driver, in the words of a configuration file."""
    environ: dict[str, str] = field(default_factory=dict)
    """Of registries that use it."""
    peer_environ: dict[str, str] = field(default_factory=dict)
    """Of distribution, where that differs."""
    peer_settings: dict[str, Any] = field(default_factory=dict)
    """Of distribution's driver, beside `settings`."""
    _running: ExitStack = field(default_factory=ExitStack)
    _starts: "itertools.count[int]" = field(default_factory=itertools.count)

    def start(self) -> None:
        for program in self.programs:
            log = self.folder / f"log-{next(self._starts)}"
            running = self._running.enter_context(server(*program.command, log=log))
            running.await_port("127.0.0.1", program.port, timeout=STARTED_WITHIN)

    def stop(self) -> None:
        self._running.close()

    def storage(self, root: str = "", *, keys: Mapping[str, Any] = EMPTY, **more: Any) -> dict[str, Any]:
        """The `storage` block of a registry that keeps its content below `root`; `keys` are more of the driver's."""
        return {self.kind: {**self.settings, "rootdirectory": root, **keys}, "delete": {"enabled": True}, **more}

    def files(self, root: str = "") -> Path:
        """Where an S3 server keeps the objects of a registry as files."""
        assert self.kind == "s3"
        return self.folder / "data/registry" / root.strip("/") / "docker/registry/v2"


@contextmanager
def store(
    kind: str, need: Need, folder: Path, *, certificate: Pair | None = None, large: bool = False
) -> Iterator[Store]:
    """An S3, GCS or Azure server on a free port, with an empty bucket.

    S3 with TLS if it is given a pair. Where content is `large` GCS keeps it in files rather than in memory, and S3 what
    it knows of parts in files rather than in attributes, for which ext4 has 4 KiB.
    """
    folder.mkdir(parents=True, exist_ok=True)
    match kind:
        case "s3":
            made = _versitygw(need, folder, certificate, aside=large)
        case "gcs":
            made = _fake_gcs(need, folder, "filesystem" if large else "memory")
        case _:
            made = _azurite(need, folder)
    made.start()
    try:
        if kind == "azure":
            azure_request(made, "PUT", "/registry", {"restype": "container"})
        yield made
    finally:
        made.stop()


def _versitygw(need: Need, folder: Path, certificate: Pair | None, *, aside: bool) -> Store:
    port = free_port()
    (folder / "data/registry").mkdir(parents=True)
    credentials = [f"ROOT_ACCESS_KEY={KEY}", f"ROOT_SECRET_KEY={SECRET}"]
    command = ["env", *credentials, need("versitygw"), "--port", f"127.0.0.1:{port}", "--region", "us-east-1"]
    if certificate is not None:
        command += ["--cert", certificate.certificate, "--key", certificate.key]
    settings = {
        "bucket": "registry",
        "region": "us-east-1",
        "regionendpoint": f"{'http' if certificate is None else 'https'}://127.0.0.1:{port}",
        "accesskey": KEY,
        "secretkey": SECRET,
        "forcepathstyle": True,
        "secure": False,
    }
    posix: list[str | Path] = ["posix", folder / "data"]
    if aside:
        (folder / "aside").mkdir()
        posix[1:1] = ["--sidecar", folder / "aside"]
    return Store("s3", folder, [Program([*command, *posix], port)], settings)


def _fake_gcs(need: Need, folder: Path, backend: str) -> Store:
    """With the XML API before it; distribution uses the JSON API alone, at the server itself."""
    port, behind = free_port(), free_port()
    (folder / "data/registry").mkdir(parents=True)
    url = f"127.0.0.1:{behind}"
    options = ["-scheme=http", f"-port={behind}", "-host=127.0.0.1", f"-public-host={url}"]
    place = [f"-external-url=http://{url}", f"-backend={backend}", f"-data={folder / 'data'}"]
    if backend == "filesystem":
        place.append(f"-filesystem-root={folder / 'data'}")
    gateway = Program([sys.executable, GCS_XML, str(port), f"http://{url}"], port)
    return Store(
        "gcs",
        folder,
        [Program([need("fake-gcs-server"), *options, *place], behind), gateway],
        {"bucket": "registry"},
        {"STORAGE_EMULATOR_HOST": f"127.0.0.1:{port}"},
        {"STORAGE_EMULATOR_HOST": url},
        {"keyfile": str(_service_account(folder))},
    )


def _service_account(folder: Path) -> Path:
    """A key that no server asks for; distribution wants one."""
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    account = {
        "type": "service_account",
        "client_email": "tests@example.com",
        "private_key": pem,
        "private_key_id": "1",
    }
    path = folder / "account.json"
    path.write_text(json.dumps({**account, "token_uri": "http://127.0.0.1:9/token"}))
    return path


def _azurite(need: Need, folder: Path) -> Store:
    port = free_port()
    options = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", folder / "data", "--silent"]
    command = [need("azurite-blob"), *options, "--skipApiVersionCheck", "--disableTelemetry"]
    settings = {
        "accountname": AZURE_ACCOUNT,
        "accountkey": AZURE_KEY,
        "credentials": {"type": "shared_key"},
        "container": "registry",
        "serviceurl": f"http://127.0.0.1:{port}/{AZURE_ACCOUNT}",
    }
    return Store("azure", folder, [Program(command, port)], settings)


def azure_request(
    made: Store, method: str, path: str, query: Mapping[str, str] = EMPTY, headers: Mapping[str, str] = EMPTY
) -> httpx.Response:
    """A request without a body to a path of the account, by Azure's "Shared Key" (version 2021-12-02)."""
    date = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    named = {**headers, "x-ms-date": date, "x-ms-version": "2021-12-02"}
    canonical = "".join(f"{name}:{value}\n" for name, value in sorted(named.items()))
    resource = "\n".join(
        (f"/{AZURE_ACCOUNT}/{AZURE_ACCOUNT}{path}", *(f"{name}:{value}" for name, value in sorted(query.items())))
    )
    text = f"{method}\n\n\n\n\n\n\n\n\n\n\n\n{canonical}{resource}"
    signature = base64.b64encode(hmac.digest(base64.b64decode(AZURE_KEY), text.encode(), hashlib.sha256)).decode()
    named["authorization"] = f"SharedKey {AZURE_ACCOUNT}:{signature}"
    response = httpx.request(method, f"{made.settings['serviceurl']}{path}", params=query or None, headers=named)
    assert response.is_success, response.text
    return response


def distribution_config(made: Store, root: str, address: str) -> str:
    """A configuration of distribution's for the same content."""
    storage = {
        made.kind: {**made.settings, **made.peer_settings, "rootdirectory": root},
        "delete": {"enabled": True},
        "redirect": {"disable": True},
        "maintenance": {"uploadpurging": {"enabled": False}},
    }
    return json.dumps({"version": 0.1, "storage": storage, "http": {"addr": address}})
