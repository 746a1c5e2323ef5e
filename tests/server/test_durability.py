"""Acknowledged is durable: `kill -9` at any moment loses nothing that got its 201, and shows nothing half-written."""

import os
import random
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.fixtures.tools import Need, unavailable
from tests.server.conftest import Serve
from tests.server.content import Repository, digest_of, image
from tests.server.live import LiveRegistry, until

KILLS = int(os.environ.get("REGATTA_KILLS", "0"))
"""As many as are asked for, on every driver; by default fewer."""
ROUNDS, ENOUGH, BOUND = KILLS or 20, KILLS or 8, 20
"""Kills; how many must be when time is short; seconds after which it is."""
PUSHERS = 4
SEED = 20261123


@dataclass
class Ledger:
    """What the registry has acknowledged, and what it may have done before it was killed."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, bytes] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    maybe: dict[str, set[str]] = field(default_factory=dict)
    """Digests that a tag may have been moved to by requests that got no answer."""


class Pusher:
    """Pushes images to a repository of its own, and moves one tag to each of them, until the registry is gone."""

    def __init__(self, registry: LiveRegistry, name: str) -> None:
        self._registry = registry
        self._random = random.Random(f"{SEED}-{name}")  # noqa: S311, wanted: the same each time
        self.name = name
        self.ledger = Ledger()
        self._pushed = 0

    def run(self) -> None:
        with self._registry.client() as client:
            repository = Repository(client, self.name)
            try:
                while True:
                    self._push_image(repository)
            except httpx.TransportError:
                return  # killed

    def _push_image(self, repository: Repository) -> None:
        self._pushed += 1
        config = f'{{"image": "{self.name}-{self._pushed}"}}'.encode()
        layer = self._random.randbytes(self._random.choice([10, 10_000, 1_500_000]))
        for content in (config, layer):
            self._push_blob(repository, content)
        manifest = image(config, [layer])
        digest, tag = digest_of(manifest), f"v{self._pushed}"
        for reference in (tag, "latest"):
            self.ledger.maybe.setdefault(reference, set()).add(digest)
            assert repository.put_manifest(manifest, reference).status_code == 201
            self.ledger.manifests[digest] = manifest
            self.ledger.tags[reference] = digest
            self.ledger.maybe[reference].clear()

    def _push_blob(self, repository: Repository, content: bytes) -> None:
        location = repository.start_upload()
        if self._random.random() < 0.5:
            half = len(content) // 2
            assert repository.client.patch(location, content=content[:half]).status_code == 202
            content_left = content[half:]
        else:
            content_left = content
        digest = digest_of(content)
        response = repository.client.put(location, params={"digest": digest}, content=content_left)
        assert response.status_code == 201
        self.ledger.blobs[digest] = content


def kill_at_random(registry: LiveRegistry, *, rounds: int, pushers: int) -> None:
    """Kills a registry again and again while it takes pushes, and looks that it has all that it has acknowledged."""
    users = [Pusher(registry, f"team-{number}/app") for number in range(pushers)]
    moments = random.Random(SEED)  # noqa: S311, wanted: the same each time

    def pushed() -> int:
        return sum(len(user.ledger.manifests) for user in users)

    for _ in range(KILLS or rounds):
        with ThreadPoolExecutor(pushers) as pool:
            before = pushed()
            running = [pool.submit(user.run) for user in users]
            until(lambda: pushed() > before, "something is acknowledged", within=200)  # noqa: B023
            time.sleep(moments.uniform(0.0, 0.5))  # a moment like any other, which is the point
            registry.kill()
            for one in running:
                one.result()
        registry.start()
    for user in users:
        _check(registry, user, since=set())


def test_kill_9_loses_nothing_acknowledged_and_shows_nothing_half_written(serve: Serve) -> None:
    registry = serve(workers=2)
    pushers = [Pusher(registry, f"team-{number}/app") for number in range(PUSHERS)]
    moments = random.Random(SEED)  # noqa: S311, wanted: the same each time
    checked: dict[str, set[str]] = {pusher.name: set() for pusher in pushers}
    began = time.monotonic()
    for number in range(ROUNDS):
        if number >= ENOUGH and time.monotonic() - began > BOUND:
            break  # on a machine that is busy with other things
        with ThreadPoolExecutor(PUSHERS) as pool:
            running = [pool.submit(pusher.run) for pusher in pushers]
            time.sleep(moments.uniform(0.02, 0.4))  # a moment like any other, which is the point
            registry.kill()
            for one in running:
                one.result()
        _check_files(registry)
        registry.start()
        for pusher in pushers:
            _check(registry, pusher, since=checked[pusher.name])
            checked[pusher.name] = set(pusher.ledger.blobs)
    for pusher in pushers:
        _check(registry, pusher, since=set())
    assert sum(len(pusher.ledger.manifests) for pusher in pushers) > ENOUGH, "too few pushes to mean anything"
    assert all(pusher.ledger.blobs for pusher in pushers)


def test_a_kill_in_the_middle_of_a_push_blocks_no_later_one(serve: Serve) -> None:
    """Each step of a push is cut off once: after the request's head, in its body, and when it is complete."""
    registry = serve()
    content = b"x" * 100_000
    digest = digest_of(content)
    for sent in (0, 1, 50_000, 99_999, 100_000):
        repository = Repository(registry.client(), "app")
        location = repository.start_upload()
        with registry.connect() as connection:
            head = f"PUT {location}?digest={digest} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
            connection.sendall(head.encode() + content[:sent])
            registry.kill()
        registry.start()
        assert repository.get_blob(digest).status_code in (200, 404)
        repository.push_blob(content)
        assert repository.get_blob(digest).content == content
        repository.client.delete(f"{repository.path}/blobs/{digest}")


def test_a_damaged_link_is_as_good_as_none(serve: Serve) -> None:
    """A power failure without a journal may leave an empty file; pushing again mends it."""
    registry = serve()
    repository = Repository(registry.client(), "app")
    layer = b"layer"
    manifest = repository.push_image("v1", layers=[layer])
    links = list(registry.root.glob("repositories/app/**/link"))
    assert len(links) == 5
    for damage in (b"", b"\0" * 71, b"sha256:", b"\xff\xfe", b"../../../etc/passwd"):
        for link in links:
            link.write_bytes(damage)
        for path in ("manifests/v1", f"manifests/{digest_of(manifest)}", f"blobs/{digest_of(layer)}"):
            assert repository.client.get(f"/v2/app/{path}").status_code == 404
        assert repository.client.get("/v2/app/tags/list").status_code == 200
        assert repository.referrers(digest_of(layer)) == []
        repository.push_image("v1", layers=[layer])
        assert repository.get_manifest("v1").content == manifest
        assert repository.get_blob(digest_of(layer)).content == layer


def test_a_damaged_manifest_is_not_served_and_a_push_mends_it(serve: Serve) -> None:
    registry = serve()
    repository = Repository(registry.client(), "app")
    manifest = repository.push_image("v1", layers=[])
    digest = digest_of(manifest)
    registry.stop()  # so that nothing is in memory
    data = registry.root / f"blobs/sha256/{digest[7:9]}/{digest[7:]}/data"
    data.write_bytes(manifest.replace(b"schemaVersion", b"schemaversion"))
    registry.start()
    assert repository.get_manifest("v1").status_code == 404
    until(lambda: "is damaged in storage" in registry.messages(), "the log tells")
    repository.push_manifest(manifest, "v1")
    assert repository.get_manifest("v1").content == manifest


class TestOrderOfSyncs:
    """The kernel's view of a push: what a 201 promises has been synced before it is sent, files and folders alike."""

    @pytest.mark.parametrize("what", ["blob", "manifest", "mount", "delete"])
    def test_everything_is_synced_before_the_answer(self, serve: Serve, need: Need, tmp_path: Path, what: str) -> None:
        registry = serve()
        repository = Repository(registry.client(), "deep/down/app")
        other = Repository(repository.client, "other")
        layer, config = b"layer", b"{}"
        act: dict[str, Callable[[], httpx.Response]] = {
            "blob": lambda: _single_post(repository, layer),
            "manifest": lambda: repository.put_manifest(image(config, [layer]), "v1"),
            "mount": lambda: repository.client.post(
                f"{repository.path}/blobs/uploads/", params={"mount": digest_of(layer), "from": "other"}
            ),
            "delete": lambda: repository.client.delete(f"{repository.path}/manifests/v1"),
        }
        if what == "mount":
            other.push_blob(layer)
        if what in ("manifest", "delete"):
            for content in (layer, config):
                repository.push_blob(content)
        if what == "delete":
            repository.push_manifest(image(config, [layer]), "v1")
        calls = _trace(need("strace"), registry, act[what], tmp_path / "trace")
        expected = {"blob": 2, "manifest": 4, "mount": 1, "delete": 0}[what]
        _assert_synced(calls, registry, expected)


@dataclass(frozen=True)
class Call:
    """A system call that changes storage, or the answer to the client."""

    name: str
    paths: tuple[str, ...]


def _trace(strace: Path, registry: LiveRegistry, act: Callable[[], httpx.Response], log: Path) -> list[Call]:
    """What the worker asks of the kernel while it answers one request."""
    [worker] = registry.worker_pids()
    names = "mkdir,mkdirat,rename,renameat,renameat2,unlink,unlinkat,rmdir,fsync,fdatasync,sendto,sendmsg,write,writev"
    command: list[str | Path] = [
        strace,
        "-f",
        "-y",
        "-s",
        "40",
        "-e",
        f"trace={names}",
        "-p",
        str(worker),
        "-o",
        str(log),
    ]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    try:
        attached = tracer.stderr.readline()
        if "attached" not in attached:
            unavailable(f"strace cannot attach here: {attached.strip()}")
        response = act()
        assert response.status_code in (201, 202), response.text
        until(lambda: any(call.name == "answer" for call in _parse(log.read_text(), registry)), "the answer is traced")
    finally:
        tracer.terminate()
        tracer.communicate()
    return _parse(log.read_text(), registry)


def _parse(trace: str, registry: LiveRegistry) -> list[Call]:
    """The calls in the order in which they ended, which is when what they did holds."""
    begun: dict[str, str] = {}
    calls = []
    for line in trace.splitlines():
        thread, _, text = line.partition(" ")
        text = text.strip()
        if text.endswith("<unfinished ...>"):
            begun[thread] = text.removesuffix("<unfinished ...>")
            continue
        if resumed := re.match(r"<\.\.\. \w+ resumed>", text):
            text = begun.pop(thread) + text[resumed.end() :]
        call = re.match(r"(\w+)\((.*)\)\s+= (-?\d+)", text)
        if call is None or call[3].startswith("-"):
            continue
        name, arguments = call[1], call[2]
        if "HTTP/1.1 20" in arguments:
            calls.append(Call("answer", ()))
        elif str(registry.data) in arguments:
            paths = re.findall(r"(?:<|\")(/[^\">]*)(?:>|\")", arguments)
            calls.append(Call(name, tuple(path for path in paths if path.startswith(str(registry.data)))))
    return calls


def _assert_synced(calls: Sequence[Call], registry: LiveRegistry, files: int) -> None:
    """Each new entry of a folder is followed by a sync of the folder, each new content preceded by a sync of its file.

    Uploads are not promised: what lies in `_uploads` may be lost.
    """
    answer = next(i for i, call in enumerate(calls) if call.name == "answer")
    promised = [call for call in calls[:answer] if not any("/_uploads" in path for path in call.paths[-1:])]
    assert not [call for call in calls[answer + 1 :] if call.name.startswith(("rename", "mkdir"))], "changes after it"
    synced: dict[str, list[int]] = {}
    for number, call in enumerate(promised):
        if call.name in ("fsync", "fdatasync"):
            synced.setdefault(call.paths[0], []).append(number)
    renames = [(number, call) for number, call in enumerate(promised) if call.name.startswith("rename")]
    assert len(renames) == files, [call.paths for _, call in renames]
    for number, call in renames:
        source, target = call.paths[-2], call.paths[-1]
        assert _any_before(calls, source, target), f"{source} was not synced before it became {target}"
        assert _any_after(synced, str(Path(target).parent), number), f"the folder of {target} was not synced"
    for number, call in enumerate(promised):
        if call.name.startswith("mkdir"):
            folder = str(Path(call.paths[-1]).parent)
            assert _any_after(synced, folder, number), f"the folder of {call.paths[-1]} was not synced"
    removed = [call for call in promised if call.name.startswith(("unlink", "rmdir"))]
    if not files:
        assert removed
        assert str(registry.root / "repositories/deep/down/app/_manifests/tags") in synced


def _any_before(calls: Sequence[Call], source: str, target: str) -> bool:
    for call in calls:
        if call.name in ("fsync", "fdatasync") and call.paths[0] == source:
            return True
        if call.name.startswith("rename") and call.paths[-1] == target:
            return False
    return False


def _any_after(synced: dict[str, list[int]], folder: str, number: int) -> bool:
    return any(later > number for later in synced.get(folder, ()))


def _single_post(repository: Repository, content: bytes) -> httpx.Response:
    return repository.client.post(
        f"{repository.path}/blobs/uploads/", params={"digest": digest_of(content)}, content=content
    )


def _check(registry: LiveRegistry, pusher: Pusher, *, since: set[str]) -> None:
    """Everything acknowledged is there, digest for digest, and tags point to what they were last moved to.

    Of the blobs in `since` it is enough here that they are there.
    """
    with registry.client() as client:
        _check_content(Repository(client, pusher.name), pusher.ledger, since)


def _check_content(repository: Repository, ledger: Ledger, since: set[str]) -> None:
    for digest, content in ledger.blobs.items():
        if digest in since:
            assert repository.client.head(f"{repository.path}/blobs/{digest}").status_code == 200
        else:
            assert repository.get_blob(digest).content == content, digest
    for digest, content in ledger.manifests.items():
        assert repository.get_manifest(digest).content == content, digest
    listed = set(repository.tags())
    assert listed >= set(ledger.tags)
    for tag in listed:
        response = repository.get_manifest(tag)
        assert response.status_code == 200, tag
        allowed = {ledger.tags[tag]} if tag in ledger.tags else set()
        assert digest_of(response.content) in allowed | ledger.maybe.get(tag, set()), tag
        for layer in response.json()["layers"]:
            assert repository.client.head(f"{repository.path}/blobs/{layer['digest']}").status_code == 200


def _check_files(registry: LiveRegistry) -> None:
    """No file that counts is partial, whether a repository links to it or not."""
    for data in registry.root.glob("blobs/sha256/*/*/data"):
        assert digest_of(data.read_bytes()) == f"sha256:{data.parent.name}"
    for link in registry.root.glob("repositories/**/link"):
        assert re.fullmatch(r"sha256:[0-9a-f]{64}", link.read_text())
