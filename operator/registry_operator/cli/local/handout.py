"""What a person needs to use a registry, as files: `ca.crt`, `password`, and `netrc`, which keeps it out of argv."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from registry_operator.api.kinds import CONFIG_MAP, SECRET
from registry_operator.cli.local.proof import Access
from registry_operator.cluster.local import StateDirectory
from registry_operator.cluster.local.store import ObjectStore, decoded_data, key_of
from registry_operator.cluster.local.volumes import write_atomically
from registry_operator.cluster.protocol import Key, Manifest


@dataclass(frozen=True, slots=True)
class Handout:
    """How to reach one registry. Passwords are in `files` alone."""

    url: str
    address: str
    directory: Path
    ca: str | None
    username: str | None
    password: str | None

    @classmethod
    def of(cls, registry: Manifest, store: ObjectStore, state: StateDirectory) -> "Handout":
        """From a Registry's status."""
        key, status = key_of(registry), registry.get("status", {})
        certificate, login = status.get("certificate") or {}, status.get("login") or {}
        tls = "disabled" not in registry["spec"]["tls"]
        authority = certificate.get("caConfigMapName")
        ca = decoded_data(store.get(Key(CONFIG_MAP, key.namespace, authority))) if authority else {}
        user = decoded_data(store.get(Key(SECRET, key.namespace, login["secretName"]))) if login else {}
        address = status.get("address", "")
        return cls(
            url=f"{'https' if tls else 'http'}://{address}",
            address=address,
            directory=state.registry(str(key.namespace), key.name) / "client",
            ca=ca["ca.crt"].decode() if "ca.crt" in ca else None,
            username=user["username"].decode() if "username" in user else None,
            password=user["password"].decode() if "password" in user else None,
        )

    @property
    def access(self) -> Access | None:
        """For the proof; None without a login of ours."""
        if self.username is None or self.password is None:
            return None
        return Access(self.address, self.ca, self.username, self.password)

    def write(self) -> None:
        """Bring the files up to date."""
        files = {}
        if self.ca is not None:
            files["ca.crt"] = self.ca.encode()
        if self.username is not None and self.password is not None:
            host = self.address.rpartition(":")[0]
            files["password"] = self.password.encode()
            files["netrc"] = f"machine {host} login {self.username} password {self.password}\n".encode()
        write_atomically(self.directory, files)

    def lines(self) -> Iterator[tuple[str, str]]:
        """What to do next: a heading and a line to paste."""
        directory = shlex.quote(str(self.directory))
        if self.ca is not None:
            yield "CA to trust", f"{directory}/ca.crt"
        if self.password is not None:
            yield "log in", f"docker login {self.address} -u {self.username} --password-stdin < {directory}/password"
        else:
            yield "log in", f"docker login {self.address}"
        yield "push", f"docker tag IMAGE {self.address}/IMAGE && docker push {self.address}/IMAGE"
        trust = f" --cacert {directory}/ca.crt" if self.ca is not None else ""
        login = f" --netrc-file {directory}/netrc" if self.password is not None else ""
        yield "look", f"curl{trust}{login} {self.url}/v2/_catalog"
