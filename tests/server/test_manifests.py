"""Manifests: what may be pushed, that it comes back byte for byte, and what tags do."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.server.conftest import Serve
from tests.server.content import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    EMPTY_TYPE,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Repository,
    descriptor,
    digest_of,
    error_codes,
    image,
    index,
    unique,
)
from tests.server.live import LiveRegistry

LIMIT = 4 << 20
MISSING = digest_of(b"pushed by nobody")


class TestRoundTrip:
    @pytest.mark.parametrize("media_type", [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST])
    def test_every_type_comes_back_as_it_was(self, repository: Repository, media_type: str) -> None:
        content = _of_type(repository, media_type)
        digest = repository.push_manifest(content, "v1", media_type)
        assert digest == digest_of(content)
        for reference in ("v1", digest):
            response = repository.get_manifest(reference)
            assert response.content == content
            assert response.headers["content-type"] == media_type
            assert response.headers["docker-content-digest"] == digest
            head = repository.client.head(f"{repository.path}/manifests/{reference}")
            assert head.headers["content-length"] == str(len(content))
            assert head.headers["docker-content-digest"] == digest

    def test_not_a_byte_changes(self, repository: Repository) -> None:
        """Odd white space, order of keys, duplicate and unknown fields: a digest is over bytes, not over meaning."""
        repository.push_blob(b"{}")
        content = (
            b'\n{ "unknown": [1.50, 1e3, "\\u00e9", "\xc3\xa9"],\t"layers":[],"config" :'
            + json.dumps(descriptor(b"{}", OCI_CONFIG), indent=3).encode()
            + b',"annotations":{"a":"1","a":"2"},"schemaVersion":2,"mediaType":"'
            + OCI_MANIFEST.encode()
            + b'"}\n\n'
        )
        digest = repository.push_manifest(content, "v1")
        assert repository.get_manifest(digest).content == content

    def test_a_client_without_accept_gets_it_too(self, repository: Repository) -> None:
        manifest = repository.push_image("v1")
        del repository.client.headers["accept"]
        try:
            assert repository.get_manifest("v1").content == manifest
        finally:
            repository.client.headers["accept"] = "*/*"

    def test_a_client_that_has_it_gets_none(self, repository: Repository) -> None:
        digest = digest_of(repository.push_image("v1"))
        response = repository.client.get(f"{repository.path}/manifests/v1", headers={"if-none-match": f'"{digest}"'})
        assert (response.status_code, response.content) == (304, b"")

    def test_sha512_names_it_as_well(self, repository: Repository) -> None:
        repository.push_blob(b"{}")
        content = image(annotations={"algorithm": "sha512"})
        digest = repository.push_manifest(content, digest_of(content, "sha512"))
        response = repository.get_manifest(digest)
        assert response.content == content
        assert response.headers["docker-content-digest"] == digest

    def test_it_can_be_read_as_a_blob(self, repository: Repository) -> None:
        manifest = repository.push_image("v1")
        assert repository.get_blob(digest_of(manifest)).content == manifest

    def test_a_repository_serves_only_its_own(self, repository: Repository) -> None:
        digest = digest_of(repository.push_image("v1"))
        assert repository.sibling("other").get_manifest(digest).status_code == 404

    def test_a_multi_platform_image(self, repository: Repository) -> None:
        children = [repository.push_image() for _ in range(3)]
        content = index(children)
        repository.push_manifest(content, "v1", OCI_INDEX)
        listed = repository.get_manifest("v1").json()["manifests"]
        assert [repository.get_manifest(entry["digest"]).content for entry in listed] == children
        nested = index(subject=descriptor(content, OCI_INDEX), annotations={"nested": "yes"})
        repository.push_manifest(nested, "nested", OCI_INDEX)


class TestReferences:
    def test_a_missing_layer_is_named(self, repository: Repository) -> None:
        repository.push_blob(b"{}")
        response = repository.put_manifest(image(layers=[b"pushed by nobody"]), "v1")
        assert response.status_code == 400
        assert error_codes(response) == ["MANIFEST_BLOB_UNKNOWN"]
        assert MISSING in response.text
        assert repository.get_manifest("v1").status_code == 404

    def test_a_missing_config_is_named(self, repository: Repository) -> None:
        response = repository.put_manifest(image(config=b"pushed by nobody"), "v1")
        assert error_codes(response) == ["MANIFEST_BLOB_UNKNOWN"]
        assert MISSING in response.text

    def test_a_blob_of_another_repository_is_missing(self, repository: Repository) -> None:
        layer = unique()
        repository.sibling("other").push_blob(layer)
        repository.push_blob(b"{}")
        assert error_codes(repository.put_manifest(image(layers=[layer]))) == ["MANIFEST_BLOB_UNKNOWN"]

    @pytest.mark.parametrize(
        "elsewhere",
        [
            {"mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"},
            {"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"},
            {"mediaType": OCI_LAYER, "urls": ["https://example.com/layer"]},
        ],
    )
    def test_a_layer_that_is_kept_elsewhere_may_be_missing(
        self, repository: Repository, elsewhere: dict[str, Any]
    ) -> None:
        repository.push_blob(b"{}")
        content = json.loads(image())
        content["layers"] = [{"digest": MISSING, "size": 1, **elsewhere}]
        repository.push_manifest(json.dumps(content).encode(), "v1")

    def test_an_index_may_be_pushed_before_what_it_lists(self, repository: Repository) -> None:
        """A sparse index, as clients make that mirror one platform of many."""
        content = index([image(layers=[b"pushed by nobody"])])
        repository.push_manifest(content, "v1", OCI_INDEX)
        assert repository.get_manifest("v1").content == content

    def test_a_strict_registry_wants_what_an_index_lists(self, serve: Serve) -> None:
        repository = Repository(serve({"manifests": {"sparse": "none"}}).client(), "app")
        child = repository.push_image()
        assert error_codes(repository.put_manifest(index([image()]), "v1", OCI_INDEX)) == ["MANIFEST_BLOB_UNKNOWN"]
        repository.push_manifest(index([child]), "v1", OCI_INDEX)

    def test_a_lenient_registry_wants_nothing(self, serve: Serve) -> None:
        repository = Repository(serve({"manifests": {"sparse": "all"}}).client(), "app")
        repository.push_manifest(image(layers=[b"pushed by nobody"]), "v1")

    def test_a_subject_need_not_exist(self, repository: Repository) -> None:
        repository.push_blob(b"{}")
        content = image(subject=descriptor(b"pushed by nobody", OCI_MANIFEST))
        response = repository.put_manifest(content)
        assert response.status_code == 201
        assert response.headers["oci-subject"] == MISSING


class TestHostileContent:
    """distribution ends in 500 for some of these."""

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"null",
            b"{}",
            b"[]",
            b"1",
            b'"text"',
            b"{",
            b"\xff\xfe{}",
            b'{"schemaVersion":2',
            b"[" * 100_000,
            b'{"a":' * 100_000,
            b'{"schemaVersion":' + b"9" * 10_000 + b"}",
            b'{"schemaVersion":NaN,"layers":Infinity}',
        ],
        ids=lambda content: repr(content[:20]),
    )
    def test_what_is_no_manifest_is_refused(self, repository: Repository, content: bytes) -> None:
        response = repository.put_manifest(content, "v1")
        assert response.status_code == 400
        assert error_codes(response) == ["MANIFEST_INVALID"]
        assert repository.get_manifest("v1").status_code == 404

    @pytest.mark.parametrize(
        "fields",
        [
            {"schemaVersion": 1},
            {"schemaVersion": "2"},
            {"schemaVersion": None},
            {"mediaType": "text/plain"},
            {"mediaType": 7},
            {"mediaType": "\ud800"},
            {"config": None},
            {"config": []},
            {"config": {"digest": "sha256:x", "size": 1}},
            {"config": {"digest": "../../../etc/passwd", "size": 1}},
            {"config": {"digest": None, "size": 1}},
            {"config": {"digest": MISSING}},
            {"config": {"digest": MISSING, "size": -1}},
            {"config": {"digest": MISSING, "size": "1"}},
            {"config": {"digest": MISSING, "size": True}},
            {"layers": {}},
            {"layers": "text"},
            {"layers": [None]},
            {"layers": [[]]},
            {"layers": [{"digest": 7, "size": 1}]},
            {"layers": [{"digest": "\ud800", "size": 1}]},
            {"subject": []},
            {"subject": {}},
            {"subject": {"digest": "sha256:x", "size": 1}},
        ],
        ids=repr,
    )
    def test_a_wrong_field_is_refused(self, repository: Repository, fields: dict[str, Any]) -> None:
        repository.push_blob(b"{}")
        content = json.dumps({**json.loads(image()), **fields}).encode()
        response = repository.put_manifest(content, "v1")
        assert response.status_code == 400
        assert error_codes(response) == ["MANIFEST_INVALID"]
        assert repository.get_manifest("v1").status_code == 404

    @pytest.mark.parametrize(
        "fields",
        [
            {"annotations": {"key": "\ud800"}},
            {"annotations": {"key": 7}},
            {"annotations": []},
            {"artifactType": "\ud800\r\nx-injected: yes"},
            {"artifactType": 7},
        ],
        ids=repr,
    )
    def test_odd_texts_break_nothing(self, repository: Repository, fields: dict[str, Any]) -> None:
        """Whatever is let in must come out again, in the manifest and in lists of referrers."""
        repository.push_blob(b"{}")
        subject = descriptor(unique(), OCI_MANIFEST)
        content = json.dumps({**json.loads(image(subject=subject)), **fields}).encode()
        response = repository.put_manifest(content, "v1")
        assert response.status_code in (201, 400)
        assert "x-injected" not in response.headers
        if response.status_code == 201:
            assert repository.get_manifest("v1").content == content
            assert len(repository.referrers(subject["digest"])) == 1

    def test_what_could_be_read_as_an_image_and_as_an_index_is_refused(self, repository: Repository) -> None:
        """Two clients would see two things behind one digest (CVE-2021-41190)."""
        manifest = json.loads(repository.push_image())
        both = {**manifest, "manifests": [descriptor(b"{}", OCI_MANIFEST)]}
        for media_type in (OCI_MANIFEST, OCI_INDEX):
            content = json.dumps({**both, "mediaType": media_type}).encode()
            assert error_codes(repository.put_manifest(content, "v1", media_type)) == ["MANIFEST_INVALID"]
        del both["mediaType"]
        for media_type in (OCI_MANIFEST, OCI_INDEX):
            content = json.dumps(both).encode()
            assert error_codes(repository.put_manifest(content, "v1", media_type)) == ["MANIFEST_INVALID"]

    @pytest.mark.parametrize("media_type", [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST])
    def test_without_a_media_type_of_its_own_it_comes_back_as_what_it_was_pushed_or_is_refused(
        self, repository: Repository, media_type: str
    ) -> None:
        """The layout keeps no media type beside the content, so what the content doesn't tell would be lost."""
        content = json.loads(_of_type(repository, media_type))
        del content["mediaType"]
        response = repository.put_manifest(json.dumps(content).encode(), "v1", media_type)
        assert response.status_code == (201 if media_type in (OCI_MANIFEST, OCI_INDEX) else 400)
        if response.status_code == 201:
            assert repository.get_manifest("v1").headers["content-type"] == media_type

    def test_an_index_whose_content_tells_nothing_is_refused(self, repository: Repository) -> None:
        response = repository.put_manifest(b'{"schemaVersion":2}', "v1", OCI_INDEX)
        assert error_codes(response) == ["MANIFEST_INVALID"]

    @pytest.mark.parametrize(
        "media_type", ["text/plain", "application/vnd.docker.distribution.manifest.v1+prettyjws", "x"]
    )
    def test_an_unknown_media_type_is_refused(self, repository: Repository, media_type: str) -> None:
        manifest = json.loads(repository.push_image())
        del manifest["mediaType"]
        response = repository.put_manifest(json.dumps(manifest).encode(), "v1", media_type)
        assert error_codes(response) == ["MANIFEST_INVALID"]

    def test_a_media_type_that_contradicts_the_request_is_refused(self, repository: Repository) -> None:
        manifest = repository.push_image()
        assert error_codes(repository.put_manifest(manifest, "v1", OCI_INDEX)) == ["MANIFEST_INVALID"]

    def test_parameters_of_the_media_type_do_not_matter(self, repository: Repository) -> None:
        manifest = repository.push_image()
        assert repository.put_manifest(manifest, "v1", f"{OCI_MANIFEST}; charset=utf-8").status_code == 201
        assert repository.get_manifest("v1").headers["content-type"] == OCI_MANIFEST

    def test_a_wrong_digest_is_refused(self, repository: Repository) -> None:
        manifest = repository.push_image()
        response = repository.put_manifest(manifest, digest_of(b"other"))
        assert response.status_code == 400
        assert error_codes(response) == ["DIGEST_INVALID"]


class TestSize:
    def test_four_mebibytes_are_fine(self, repository: Repository) -> None:
        content = _padded(repository, LIMIT)
        repository.push_manifest(content, "v1")
        assert repository.get_manifest("v1").content == content

    def test_a_byte_more_is_too_large(self, repository: Repository) -> None:
        content = _padded(repository, LIMIT + 1)
        response = repository.put_manifest(content, "v1")
        assert response.status_code == 413
        assert error_codes(response) == ["SIZE_INVALID"]
        url = f"{repository.path}/manifests/v1"
        streamed = iter([content])
        response = repository.client.put(url, content=streamed, headers={"content-type": OCI_MANIFEST})
        assert response.status_code == 413
        assert repository.get_manifest("v1").status_code == 404


class TestTags:
    def test_a_tag_moves(self, repository: Repository) -> None:
        first, second = repository.push_image("latest"), repository.push_image("latest")
        assert repository.get_manifest("latest").content == second
        assert repository.get_manifest(digest_of(first)).content == first
        assert repository.tags() == ["latest"]

    def test_a_push_by_digest_may_name_tags(self, repository: Repository) -> None:
        manifest = repository.push_image()
        path = f"{repository.path}/manifests/{digest_of(manifest)}"
        response = repository.client.put(
            path, params={"tag": ["one", "two"]}, content=manifest, headers={"content-type": OCI_MANIFEST}
        )
        assert response.status_code == 201
        assert response.headers.get_list("oci-tag") == ["one", "two"]
        assert repository.tags() == ["one", "two"]
        assert repository.get_manifest("two").content == manifest

    def test_all_of_many_tags_are_set_or_the_push_is_refused(self, repository: Repository) -> None:
        manifest = repository.push_image()
        path = f"{repository.path}/manifests/{digest_of(manifest)}"
        for count in (10, 50):
            tags = [f"v{count}.{number}" for number in range(count)]
            response = repository.client.put(
                path, params={"tag": tags}, content=manifest, headers={"content-type": OCI_MANIFEST}
            )
            # More than ten may be refused with 414, but never some of them passed over in silence.
            assert response.status_code == 201 or (count > 10 and response.status_code == 414)
            assert set(tags) & set(repository.tags()) == (set(tags) if response.status_code == 201 else set())

    def test_a_wrong_tag_among_them_sets_none(self, repository: Repository) -> None:
        manifest = repository.push_image()
        path = f"{repository.path}/manifests/{digest_of(manifest)}"
        response = repository.client.put(
            path, params={"tag": ["good", "-bad"]}, content=manifest, headers={"content-type": OCI_MANIFEST}
        )
        assert error_codes(response) == ["TAG_INVALID"]
        assert repository.tags() == []

    def test_deleting_a_tag_keeps_its_manifest(self, repository: Repository) -> None:
        manifest = repository.push_image("v1")
        repository.push_manifest(manifest, "v2")
        assert repository.client.delete(f"{repository.path}/manifests/v1").status_code == 202
        assert repository.get_manifest("v1").status_code == 404
        assert repository.get_manifest("v2").content == manifest
        assert repository.tags() == ["v2"]
        assert repository.client.delete(f"{repository.path}/manifests/v1").status_code == 404

    def test_deleting_a_manifest_takes_the_tags_that_point_to_it(self, repository: Repository) -> None:
        kept, gone = repository.push_image("kept"), repository.push_image("v1")
        repository.push_manifest(gone, "v2")
        path = f"{repository.path}/manifests/{digest_of(gone)}"
        assert repository.client.delete(path).status_code == 202
        assert repository.client.get(path).status_code == 404
        assert repository.client.head(path).status_code == 404
        assert repository.client.delete(path).status_code == 404
        assert repository.tags() == ["kept"]
        assert repository.get_manifest("kept").content == kept

    def test_a_deleted_manifest_can_be_pushed_again(self, repository: Repository) -> None:
        manifest = repository.push_image("v1")
        repository.client.delete(f"{repository.path}/manifests/{digest_of(manifest)}")
        repository.push_manifest(manifest, "v1")
        assert repository.get_manifest("v1").content == manifest

    def test_a_tag_pushed_and_deleted_at_once_is_there_or_not_but_never_broken(
        self, registry: LiveRegistry, repository: Repository
    ) -> None:
        manifest = repository.push_image("busy")
        clients = [registry.client() for _ in range(4)]

        def push(number: int) -> int:
            return Repository(clients[number], repository.name).put_manifest(manifest, "busy").status_code

        def delete(number: int) -> int:
            return clients[number].delete(f"{repository.path}/manifests/busy").status_code

        with ThreadPoolExecutor(4) as pool:
            for _ in range(40):
                work = [pool.submit(push, 0), pool.submit(delete, 1), pool.submit(push, 2), pool.submit(delete, 3)]
                pushed, deleted = {work[0].result(), work[2].result()}, {work[1].result(), work[3].result()}
                assert pushed == {201}
                assert deleted <= {202, 404}
                response = repository.get_manifest("busy")
                assert response.status_code == 404 or response.content == manifest
        repository.push_manifest(manifest, "busy")
        assert repository.get_manifest("busy").content == manifest


def _of_type(repository: Repository, media_type: str) -> bytes:
    """A manifest of this type, whose content the repository holds."""
    config, layer = b"{}", unique()
    repository.push_blob(config)
    repository.push_blob(layer)
    match media_type:
        case "application/vnd.oci.image.manifest.v1+json":
            return image(config, [layer])
        case "application/vnd.docker.distribution.manifest.v2+json":
            fields: dict[str, Any] = {
                "config": descriptor(config, DOCKER_CONFIG),
                "layers": [descriptor(layer, DOCKER_LAYER)],
            }
        case _:
            fields = {"manifests": [descriptor(repository.push_image(), OCI_MANIFEST)]}
    return json.dumps({"schemaVersion": 2, "mediaType": media_type, **fields}).encode()


def _padded(repository: Repository, size: int) -> bytes:
    repository.push_blob(b"{}")
    bare = image(annotations={"padding": ""}, artifactType=EMPTY_TYPE)
    return image(annotations={"padding": "x" * (size - len(bare))}, artifactType=EMPTY_TYPE)
