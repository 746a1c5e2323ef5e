"""Pushes, mounts, retags, deletions and pulls at random, with the collector running back to back beside them.

What a client knows to be there must pull whole at any time: tags that were acknowledged and that it has not deleted.
"""

import hashlib
import json
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import httpx

from tests.server.content import Repository, digest_of, image

REPOSITORIES: Final = 3
"""Of each client's own, so that it knows what is there; layers are mounted between all."""
LAYERS: Final = 40
"""Different layers, so few that most have been pushed, deleted and collected before."""
TAGS: Final = 4


@dataclass
class Fire:
    """What became of it."""

    cycles: int = 0
    pulls: int = 0
    collections: int = 0
    collected: int = 0
    """Contents that went into the trash or from there."""
    faults: list[str] = field(default_factory=list)
    referenced: set[str] = field(default_factory=set)
    """The digests of all that tags lead to at the end."""


def rage(
    client: Callable[[], httpx.Client], collect: Callable[[], int], *, cycles: int, patience: float, clients: int = 4
) -> Fire:
    """Let `clients` do `cycles` things in all, with `collect` running again and again until they are done.

    A push that took longer than `patience`, in seconds, may be refused. Stops early at the first fault.
    """
    fire = Fire()
    done = threading.Event()

    def collecting() -> None:
        while not done.is_set():
            fire.collected += collect()
            fire.collections += 1

    with ThreadPoolExecutor(clients + 1) as threads:
        collector = threads.submit(collecting)
        users = [_User(client(), number, fire, patience) for number in range(clients)]
        working = [threads.submit(user.work, cycles // clients) for user in users]
        try:
            for one in working:
                one.result()
        finally:
            done.set()
            collector.result()
    for user in users:
        user.finish()
    return fire


class _User:
    """One client, with repositories of its own."""

    def __init__(self, client: httpx.Client, number: int, fire: Fire, patience: float) -> None:
        self._patience = patience
        self._random = random.Random(number)  # noqa: S311
        self._number = number
        self._fire = fire
        self._repositories = [Repository(client, f"user-{number}/app-{index}") for index in range(REPOSITORIES)]
        self._tags: dict[tuple[Repository, str], bytes] = {}

    def work(self, cycles: int) -> None:
        steps = (self._push, self._push, self._retag, self._untag, self._delete, self._pull, self._pull)
        for _ in range(cycles):
            if self._fire.faults:
                return
            self._attempt(self._random.choice(steps))
            self._fire.cycles += 1

    def _attempt(self, step: Callable[[], None]) -> None:
        try:
            step()
        except AssertionError as error:
            self._fire.faults.append(str(error))

    def finish(self) -> None:
        """Pull all there is."""
        for (repository, tag), manifest in self._tags.items():
            self._attempt(
                lambda repository=repository, tag=tag, manifest=manifest: self._check(repository, tag, manifest)
            )
            document = json.loads(manifest)
            self._fire.referenced |= {one["digest"] for one in (document["config"], *document["layers"])}
            self._fire.referenced.add(digest_of(manifest))

    def _push(self) -> None:
        """As clients do: ask for each layer, mount or push what is not there, then the manifest."""
        repository, began = self._random.choice(self._repositories), time.monotonic()
        layers = [_layer(number) for number in self._random.sample(range(LAYERS), 3)]
        for layer in (b"{}", *layers):
            self._provide(repository, layer)
        manifest = image(b"{}", layers, annotations={"by": f"{self._number}-{self._random.random()}"})
        tag = f"v{self._random.randrange(TAGS)}"
        pushed = repository.put_manifest(manifest, tag)
        if pushed.status_code == 400 and time.monotonic() - began > self._patience:
            return
        assert pushed.status_code == 201, (
            f"{repository.name}:{tag} is refused although its layers are there: {pushed.text}"
        )
        self._tags[repository, tag] = manifest

    def _provide(self, repository: Repository, layer: bytes) -> None:
        digest = digest_of(layer)
        if repository.client.head(f"{repository.path}/blobs/{digest}").status_code == 200:
            return
        source = f"user-{self._random.randrange(4)}/app-{self._random.randrange(REPOSITORIES)}"
        query = {"mount": digest, "from": source}
        answer = repository.client.post(f"{repository.path}/blobs/uploads/", params=query)
        if answer.status_code == 202:
            location = httpx.URL(answer.headers["location"]).copy_merge_params({"digest": digest})
            answer = repository.client.put(location, content=layer)
        assert answer.status_code == 201, answer.text

    def _retag(self) -> None:
        if not self._tags:
            return
        (repository, tag), manifest = self._random.choice(list(self._tags.items()))
        tag = f"v{self._random.randrange(TAGS)}"
        answer = repository.put_manifest(manifest, tag)
        assert answer.status_code == 201, answer.text
        self._tags[repository, tag] = manifest

    def _untag(self) -> None:
        if not self._tags:
            return
        repository, tag = self._random.choice(list(self._tags))
        del self._tags[repository, tag]
        assert repository.client.delete(f"{repository.path}/manifests/{tag}").status_code == 202

    def _delete(self) -> None:
        if not self._tags:
            return
        (repository, _), manifest = self._random.choice(list(self._tags.items()))
        for key in [key for key, one in self._tags.items() if key[0] == repository and one == manifest]:
            del self._tags[key]
        assert repository.client.delete(f"{repository.path}/manifests/{digest_of(manifest)}").status_code == 202

    def _pull(self) -> None:
        if self._tags:
            (repository, tag), manifest = self._random.choice(list(self._tags.items()))
            self._check(repository, tag, manifest)

    def _check(self, repository: Repository, tag: str, manifest: bytes) -> None:
        pulled = repository.get_manifest(tag)
        assert pulled.content == manifest, f"{repository.name}:{tag} answers {pulled.status_code}: {pulled.text[:200]}"
        for layer in json.loads(manifest)["layers"]:
            blob = repository.get_blob(layer["digest"])
            found = hashlib.sha256(blob.content).hexdigest()
            assert f"sha256:{found}" == layer["digest"], (
                f"{repository.name}:{tag}: {layer['digest']} answers {blob.status_code}"
            )
        self._fire.pulls += 1


def _layer(number: int) -> bytes:
    return hashlib.shake_128(f"layer {number}".encode()).digest(1000 + number)
