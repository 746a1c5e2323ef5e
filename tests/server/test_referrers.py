"""Referrers: what names a manifest as its subject."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.server.conftest import Serve
from tests.server.content import (
    EMPTY_TYPE,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    Repository,
    descriptor,
    digest_of,
    image,
    index,
    unique,
)
from tests.server.live import LiveRegistry

SIGNATURE, SBOM = "application/vnd.example.signature", "application/vnd.example.sbom"


def test_nothing_refers_to_the_unknown(repository: Repository) -> None:
    response = repository.client.get(f"{repository.path}/referrers/{digest_of(b'unknown')}")
    assert response.status_code == 200
    assert response.headers["content-type"] == OCI_INDEX
    assert response.json() == {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
    assert "oci-filters-applied" not in response.headers


def test_a_malformed_digest_is_refused(repository: Repository) -> None:
    assert repository.client.get(f"{repository.path}/referrers/latest").status_code == 400


def test_each_referrer_is_described(repository: Repository) -> None:
    subject = repository.push_image()
    manifest = _refer(repository, subject, artifactType=SIGNATURE, annotations={"by": "alice"})
    assert repository.referrers(digest_of(subject)) == [
        {
            **descriptor(manifest, OCI_MANIFEST),
            "artifactType": SIGNATURE,
            "annotations": {"by": "alice"},
        }
    ]


def test_an_image_without_an_artifact_type_has_its_configs(repository: Repository) -> None:
    subject = repository.push_image()
    _refer(repository, subject)
    assert repository.referrers(digest_of(subject))[0]["artifactType"] == OCI_CONFIG


def test_an_index_without_an_artifact_type_has_none(repository: Repository) -> None:
    subject = repository.push_image()
    content = index(subject=descriptor(subject, OCI_MANIFEST))
    assert repository.put_manifest(content, None, OCI_INDEX).headers["oci-subject"] == digest_of(subject)
    assert repository.referrers(digest_of(subject)) == [descriptor(content, OCI_INDEX)]


def test_a_filter_applies_and_says_so(repository: Repository) -> None:
    subject = repository.push_image()
    signature = _refer(repository, subject, artifactType=SIGNATURE)
    _refer(repository, subject, artifactType=SBOM)
    path = f"{repository.path}/referrers/{digest_of(subject)}"
    response = repository.client.get(path, params={"artifactType": SIGNATURE})
    assert [entry["digest"] for entry in response.json()["manifests"]] == [digest_of(signature)]
    assert response.headers["oci-filters-applied"] == "artifactType"
    assert repository.referrers(digest_of(subject), artifactType="other") == []
    assert len(repository.referrers(digest_of(subject))) == 2


def test_referrers_may_come_before_their_subject(repository: Repository) -> None:
    subject = image(annotations={"pushed": "later"})
    signature = _refer(repository, subject)
    assert _digests(repository, subject) == {digest_of(signature)}
    repository.push_manifest(subject)
    assert _digests(repository, subject) == {digest_of(signature)}


def test_a_repository_has_its_own(repository: Repository) -> None:
    subject = repository.push_image()
    _refer(repository, subject)
    assert repository.sibling("other").referrers(digest_of(subject)) == []


def test_a_subject_may_be_named_by_sha512(repository: Repository) -> None:
    subject = repository.push_image()
    entry: dict[str, Any] = {"mediaType": OCI_MANIFEST, "digest": digest_of(subject, "sha512"), "size": len(subject)}
    manifest = image(subject=entry)
    repository.push_manifest(manifest)
    assert [one["digest"] for one in repository.referrers(entry["digest"])] == [digest_of(manifest)]


class TestTheListIsNeverStale:
    """It is kept in memory by each worker, and derived anew when the repository has changed."""

    def test_it_changes_with_each_push_and_delete(self, registry: LiveRegistry, repository: Repository) -> None:
        subject = repository.push_image()
        clients = [registry.client() for _ in range(6)]  # over both workers
        expected: set[str] = set()
        for _ in range(12):
            expected.add(digest_of(_refer(repository, subject)))
            for client in clients:
                assert _digests(Repository(client, repository.name), subject) == expected
        for digest in sorted(expected):
            repository.client.delete(f"{repository.path}/manifests/{digest}")
            expected.remove(digest)
            for client in clients:
                assert _digests(Repository(client, repository.name), subject) == expected

    def test_a_change_long_after_the_last_counts_as_well(self, serve: Serve) -> None:
        registry = serve()
        repository = Repository(registry.client(), "app")
        subject = repository.push_image()
        first = _refer(repository, subject)
        self._long_ago(registry)
        assert _digests(repository, subject) == {digest_of(first)}
        second = _refer(repository, subject)
        assert _digests(repository, subject) == {digest_of(first), digest_of(second)}
        self._long_ago(registry)
        repository.client.delete(f"{repository.path}/manifests/{digest_of(first)}")
        assert _digests(repository, subject) == {digest_of(second)}

    @pytest.mark.parametrize("remains", ["folder", "link"])
    def test_what_a_crash_left_of_a_push_does_not_hide_the_next(self, serve: Serve, remains: str) -> None:
        """The folder of the manifest's link is there already, so that the next push doesn't change the one above it."""
        registry = serve()
        repository = Repository(registry.client(), "app")
        subject = repository.push_image()
        manifest = image(subject=descriptor(subject, OCI_MANIFEST))
        folder = registry.root / "repositories/app/_manifests/revisions/sha256" / digest_of(manifest)[7:]
        folder.mkdir()
        if remains == "link":
            (folder / "link").write_text(digest_of(manifest))
        self._long_ago(registry)
        assert _digests(repository, subject) == set()
        repository.push_manifest(manifest)
        assert _digests(repository, subject) == {digest_of(manifest)}

    def _long_ago(self, registry: LiveRegistry) -> None:
        """Makes all that happened so far an hour old."""
        hour_ago = time.time() - 3600
        for path in _all_folders(registry.root):
            os.utime(path, (hour_ago, hour_ago))


def _all_folders(root: Path) -> list[Path]:
    return [path for path in root.glob("**/") if path.is_dir()]


def _refer(repository: Repository, subject: bytes, **more: Any) -> bytes:
    """Pushes a manifest that refers to another one; returns it."""
    repository.push_blob(b"{}")
    fields = {"config": descriptor(b"{}", OCI_CONFIG if "artifactType" not in more else EMPTY_TYPE)}
    manifest = json.loads(image(subject=descriptor(subject, OCI_MANIFEST), **more))
    annotations = more.get("annotations", {"unique": unique().decode()})
    content = json.dumps({**manifest, **fields, "annotations": annotations}).encode()
    repository.push_manifest(content)
    return content


def _digests(repository: Repository, subject: bytes) -> set[str]:
    return {entry["digest"] for entry in repository.referrers(digest_of(subject))}
