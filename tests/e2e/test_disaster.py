"""A registry is lost with its volume, and a new one begins with its backup: nothing is missing."""

import json
import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.harness.bucket import serve_bucket
from tests.e2e.harness.namespaces import Json, Namespace
from tests.e2e.harness.product import Product, Release
from tests.e2e.harness.registries import LiveRegistry
from tests.fixtures.tools import Need
from tests.operator.kube import eventually
from tests.server.content import OCI_INDEX, Repository, descriptor, digest_of, index

REPOSITORIES, TAGS = 20, 10
LAYER = 64 << 10
EACH_MINUTE = {"schedule": "* * * * *", "keep": {"last": 5}, "verify": True}


@dataclass
class Content:
    """What a repository holds, by what clients see."""

    tags: dict[str, str] = field(default_factory=dict)
    referrers: dict[str, list[str]] = field(default_factory=dict)
    blobs: set[str] = field(default_factory=set)


def fill(repository: Repository) -> Content:
    """Images, a third of them within an index of two, each second one signed."""
    held = Content()
    for number in range(TAGS):
        tag, layers = f"v1.{number}.0", [os.urandom(LAYER)]
        held.blobs |= set(map(digest_of, layers))
        if number % 3:
            top = repository.push_image(tag, layers=layers)
        else:
            others = [os.urandom(LAYER)]
            held.blobs |= set(map(digest_of, others))
            top = index([repository.push_image(layers=layers), repository.push_image(layers=others)])
            repository.push_manifest(top, tag, OCI_INDEX)
        held.tags[tag] = digest_of(top)
        if number % 2:
            signature = repository.push_image(layers=[os.urandom(100)], subject=descriptor(top))
            held.referrers[digest_of(top)] = [digest_of(signature)]
    return held


def found(repository: Repository, expected: Content) -> Content:
    """What is there of what is expected: each tag, each referrer, and each blob read whole."""
    tags = {tag: repository.get_manifest(tag).headers["docker-content-digest"] for tag in repository.tags()}
    referrers = {subject: [one["digest"] for one in repository.referrers(subject)] for subject in expected.referrers}
    for digest in tags.values():
        document = json.loads(repository.get_manifest(digest).content)
        for child in document.get("manifests", ()):
            assert digest_of(repository.get_manifest(child["digest"]).content) == child["digest"]
    blobs = {digest for digest in expected.blobs if digest_of(repository.get_blob(digest).content) == digest}
    return Content(tags, referrers, blobs)


def test_all_comes_back_from_a_claim_and_from_a_bucket(
    operator: Release,
    product: Product,
    new_namespace: Callable[[str], Namespace],
    busybox_image: str,
    need: Need,
    tmp_path: Path,
    shown: Callable[[], AbstractContextManager[object]],
) -> None:
    namespace = new_namespace("disaster")
    namespace.apply(_claim("backups"))
    bucket = serve_bucket(namespace, need("versitygw"), busybox_image, tmp_path)
    archives: dict[str, Json] = {"by-claim": {"claim": {"name": "backups"}}, "by-bucket": {"s3": bucket}}
    registries = {name: LiveRegistry(namespace, name) for name in archives}
    held: dict[str, dict[str, Content]] = {}
    for name, registry in registries.items():
        registry.apply({**product.spec, "backup": {"destination": archives[name], **EACH_MINUTE}})
    for name, registry in registries.items():
        registry.await_ready()
        with registry.http() as client:
            held[name] = {f"team-{n}/app": fill(Repository(client, f"team-{n}/app")) for n in range(REPOSITORIES)}
    runs = {}
    for name, registry in registries.items():
        said = registry.await_log(f": {REPOSITORIES} repositories, {REPOSITORIES * TAGS} tags", within=200)
        runs[name] = re.findall(r"run (\d{8}T\d{6}Z): ", said)[0]
    backup = f"by-claim-{runs['by-claim'].lower()}"
    eventually(lambda: "Completed" in namespace.kubectl("get", "registrybackup", backup, "--ignore-not-found"))
    shows = namespace.get("registry", "by-claim")["status"]["backup"]
    assert shows["lastResult"] == "Succeeded"
    assert shows["nextTime"] > shows["lastTime"]

    for registry in registries.values():
        registry.delete()
        namespace.kubectl("delete", "pvc", f"{registry.name}-data", "--timeout=60s")
    began = time.monotonic()
    sources: dict[str, Json] = {"by-claim": {"backup": {"name": backup}}}
    sources["by-bucket"] = {"source": archives["by-bucket"]}
    for name, registry in registries.items():
        registry.apply({**product.spec, "bootstrap": sources[name]})
    for name, registry in registries.items():
        registry.await_ready()
        with shown():
            taken = time.monotonic() - began
            print(f"{REPOSITORIES * TAGS} images {name}: served again after {taken:.1f} s", file=sys.stderr)
        registry.await_log("proven to be as it was")
        with registry.http() as client:
            catalog = client.get("/v2/_catalog", params={"n": 1000}).json()["repositories"]
            assert catalog == sorted(held[name])
            assert {one: found(Repository(client, one), held[name][one]) for one in catalog} == held[name]
            Repository(client, "team-0/app").push_image("goes-on")


def _claim(name: str) -> dict[str, Any]:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}
