"""How blobs come in: in one request, in two, in chunks, after a broken connection, from another repository."""

import hashlib
import uuid
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.server.conftest import Serve
from tests.server.content import Repository, digest_of, error_codes, unique
from tests.server.live import LiveRegistry, until

ALGORITHMS = pytest.mark.parametrize("algorithm", ["sha256", "sha512"])


class TestMonolithic:
    @ALGORITHMS
    def test_post_then_put(self, repository: Repository, algorithm: str) -> None:
        content = unique()
        digest = digest_of(content, algorithm)
        response = repository.client.put(repository.start_upload(), params={"digest": digest}, content=content)
        assert response.status_code == 201
        assert response.headers["docker-content-digest"] == digest
        assert repository.client.get(response.headers["location"]).content == content

    @ALGORITHMS
    def test_a_single_post(self, repository: Repository, algorithm: str) -> None:
        content = unique()
        digest = digest_of(content, algorithm)
        response = repository.client.post(
            f"{repository.path}/blobs/uploads/", params={"digest": digest}, content=content
        )
        assert response.status_code == 201
        assert response.headers["location"] == f"{repository.path}/blobs/{digest}"
        assert repository.get_blob(digest).content == content

    def test_a_single_post_with_a_wrong_digest_leaves_nothing(
        self, registry: LiveRegistry, repository: Repository
    ) -> None:
        response = repository.client.post(
            f"{repository.path}/blobs/uploads/", params={"digest": digest_of(b"other")}, content=unique()
        )
        assert response.status_code == 400
        assert error_codes(response) == ["DIGEST_INVALID"]
        assert _uploads(registry, repository) == []

    @pytest.mark.parametrize("digest", ["", "sha256:", f"sha256:{'g' * 64}", f"md5:{'0' * 32}", f"sha256:{'A' * 64}"])
    def test_a_malformed_digest_is_refused_and_the_session_stays(self, repository: Repository, digest: str) -> None:
        location = repository.start_upload()
        response = repository.client.put(location, params={"digest": digest}, content=b"x")
        assert response.status_code == 400
        assert error_codes(response) == ["DIGEST_INVALID"]
        assert repository.client.get(location).headers["range"] == "0-0"

    @ALGORITHMS
    def test_the_empty_blob(self, repository: Repository, algorithm: str) -> None:
        digest = repository.push_blob(b"", algorithm)
        response = repository.get_blob(digest)
        assert (response.status_code, response.content) == (200, b"")
        assert response.headers["content-length"] == "0"

    def test_pushing_the_same_content_again_is_fine(self, repository: Repository) -> None:
        content = unique()
        assert repository.push_blob(content) == repository.push_blob(content)
        assert repository.get_blob(digest_of(content)).content == content

    def test_a_blob_of_many_megabytes(self, repository: Repository) -> None:
        content = hashlib.shake_128(b"seed").digest(24 << 20)
        digest = repository.push_blob(content)
        assert repository.get_blob(digest).content == content


class TestWrongContent:
    def test_it_never_becomes_a_blob_and_the_session_ends(self, repository: Repository) -> None:
        location, claimed, sent = repository.start_upload(), digest_of(unique()), unique()
        response = repository.client.put(location, params={"digest": claimed}, content=sent)
        assert response.status_code == 400
        assert error_codes(response) == ["DIGEST_INVALID"]
        assert repository.get_blob(claimed).status_code == 404
        assert repository.get_blob(digest_of(sent)).status_code == 404
        assert repository.client.get(location).status_code == 404

    def test_chunks_that_sum_up_to_something_else_do_not_either(self, repository: Repository) -> None:
        location = repository.start_upload()
        repository.client.patch(location, content=b"one")
        response = repository.client.put(location, params={"digest": digest_of(b"two")})
        assert response.status_code == 400
        assert repository.get_blob(digest_of(b"one")).status_code == 404


class TestChunked:
    @ALGORITHMS
    def test_with_content_range(self, repository: Repository, algorithm: str) -> None:
        first, second, last = b"a" * 1000, b"b" * 500, b"c" * 7
        location = repository.start_upload()
        response = _patch(repository, location, first, start=0)
        assert response.headers["range"] == "0-999"
        response = _patch(repository, response.headers["location"], second, start=1000)
        assert response.headers["range"] == "0-1499"
        digest = digest_of(first + second + last, algorithm)
        response = repository.client.put(
            response.headers["location"],
            params={"digest": digest},
            headers={"content-range": "1500-1506"},
            content=last,
        )
        assert response.status_code == 201
        assert repository.get_blob(digest).content == first + second + last

    def test_without_content_range(self, repository: Repository) -> None:
        """Docker streams a layer so, without telling its length."""
        location = repository.start_upload()
        for piece in (b"one", b"two"):
            response = repository.client.patch(location, content=iter([piece]))
            assert response.status_code == 202
        assert response.headers["range"] == "0-5"
        digest = digest_of(b"onetwo")
        assert repository.client.put(location, params={"digest": digest}).status_code == 201
        assert repository.get_blob(digest).content == b"onetwo"

    def test_an_empty_chunk_changes_nothing(self, repository: Repository) -> None:
        location = repository.start_upload()
        response = repository.client.patch(location)
        assert (response.status_code, response.headers["range"]) == (202, "0-0")

    def test_the_status_tells_where_to_go_on(self, repository: Repository) -> None:
        location = repository.start_upload()
        fresh = repository.client.get(location)
        assert (fresh.status_code, fresh.headers["range"]) == (204, "0-0")
        _patch(repository, location, b"12345", start=0)
        status = repository.client.get(location)
        assert (status.status_code, status.headers["range"], status.headers["location"]) == (204, "0-4", location)
        assert status.headers["docker-upload-uuid"] == location.rpartition("/")[2]

    @pytest.mark.parametrize("start", [0, 1, 6, 10**17])
    @pytest.mark.parametrize("method", ["PATCH", "PUT"])
    def test_a_chunk_out_of_step_is_refused_and_the_session_goes_on(
        self, repository: Repository, method: str, start: int
    ) -> None:
        location = repository.start_upload()
        _patch(repository, location, b"12345", start=0)
        digest = digest_of(b"1234567")
        response = repository.client.request(
            method,
            location,
            params={"digest": digest} if method == "PUT" else None,
            content=b"67",
            headers={"content-range": f"{start}-{start + 1}"},
        )
        assert response.status_code == 416
        assert response.headers["range"] == "0-4"
        assert response.headers["location"] == location
        assert _patch(repository, location, b"67", start=5).status_code == 202
        assert repository.client.put(location, params={"digest": digest}).status_code == 201

    @pytest.mark.parametrize("span", ["", "x", "5", "-5", "2-1", "0-", "0-4-8", "bytes", "0-" + "9" * 30])
    def test_a_malformed_content_range_is_refused(self, repository: Repository, span: str) -> None:
        location = repository.start_upload()
        response = repository.client.patch(location, content=b"12345", headers={"content-range": span})
        assert response.status_code == 400
        assert repository.client.get(location).headers["range"] == "0-0"

    def test_a_range_and_a_length_that_contradict_each_other_are_refused(self, repository: Repository) -> None:
        location = repository.start_upload()
        response = repository.client.patch(location, content=b"12345", headers={"content-range": "0-9"})
        assert response.status_code == 400
        assert error_codes(response) == ["SIZE_INVALID"]
        assert repository.client.get(location).headers["range"] == "0-0"

    def test_more_than_its_range_says_is_refused(self, repository: Repository) -> None:
        location = repository.start_upload()
        response = repository.client.patch(location, content=iter([b"12", b"345"]), headers={"content-range": "0-1"})
        assert response.status_code == 400
        assert error_codes(response) == ["SIZE_INVALID"]

    def test_sessions_survive_a_client_that_drops_the_query(self, repository: Repository) -> None:
        """Some benchmark clients do: all there is to know of a session is in its path."""
        assert "?" not in repository.start_upload()


class TestCutConnection:
    @pytest.mark.parametrize("method", ["PATCH", "PUT"])
    def test_what_arrived_is_kept_and_the_client_goes_on_from_there(
        self, registry: LiveRegistry, repository: Repository, method: str
    ) -> None:
        content = hashlib.shake_128(b"cut").digest(3 << 20)
        digest, location = digest_of(content), repository.start_upload()
        with registry.connect() as connection:
            head = f"{method} {location}?digest={digest} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
            connection.sendall(head.encode() + content[: 2 << 20])
        offset = 0

        def kept() -> bool:
            nonlocal offset
            status = repository.client.get(location)
            offset = int(status.headers["range"].removeprefix("0-")) + 1
            return offset == 2 << 20

        until(kept, "the bytes that arrived are kept")
        assert _patch_when_free(repository, location, content[offset:], start=offset).status_code == 202
        assert repository.client.put(location, params={"digest": digest}).status_code == 201
        assert repository.get_blob(digest).content == content

    def test_a_manifest_cut_off_is_not_stored(self, registry: LiveRegistry, repository: Repository) -> None:
        manifest = b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}    '
        with registry.connect() as connection:
            head = f"PUT {repository.path}/manifests/v1 HTTP/1.1\r\nHost: x\r\nContent-Length: {len(manifest)}\r\n\r\n"
            connection.sendall(head.encode() + manifest[:-4])
        fields = {"method": "PUT", "path": f"{repository.path}/manifests/v1"}
        until(lambda: registry.entries(**fields), "the request has ended")
        assert repository.get_manifest("v1").status_code == 404

    def test_a_chunked_body_with_broken_framing_harms_nothing(
        self, registry: LiveRegistry, repository: Repository
    ) -> None:
        location = repository.start_upload()
        with registry.connect() as connection:
            head = f"PATCH {location} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            connection.sendall(head.encode() + b"3\r\none\r\nzz\r\n")
            answer = connection.recv(4096)
        assert not answer.startswith(b"HTTP/1.1 5")
        digest = digest_of(b"onetwo")
        until(lambda: repository.client.get(location).headers["range"] == "0-2", "what arrived is kept")
        assert _patch_when_free(repository, location, b"two", start=3).status_code == 202
        assert repository.client.put(location, params={"digest": digest}).status_code == 201


class TestOneWriterAtATime:
    def test_a_second_writer_is_told_to_wait_and_breaks_nothing(
        self, registry: LiveRegistry, repository: Repository
    ) -> None:
        content = hashlib.shake_128(b"writers").digest(2 << 20)
        digest, location = digest_of(content), repository.start_upload()
        with registry.connect() as connection:
            head = (
                f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
            )
            connection.sendall(head.encode() + content[: 1 << 20])
            until(lambda: repository.client.get(location).headers["range"] == f"0-{(1 << 20) - 1}", "half is there")
            for _ in range(8):  # over both workers
                with registry.client() as other:
                    assert other.patch(location, content=b"intruder").status_code == 429
                    assert other.put(location, params={"digest": digest}).status_code == 429
                    assert other.delete(location).status_code == 429
            connection.sendall(content[1 << 20 :])
            assert connection.recv(4096).startswith(b"HTTP/1.1 202")
        assert repository.client.put(location, params={"digest": digest}).status_code == 201
        assert repository.get_blob(digest).content == content

    def test_of_many_that_push_a_chunk_at_once_each_byte_counts_once(
        self, registry: LiveRegistry, repository: Repository
    ) -> None:
        """A client whose request timed out tries again while the first try is still being worked on."""
        chunks = [bytes([number]) * 300_000 for number in range(6)]
        content, location = b"".join(chunks), repository.start_upload()
        clients = [registry.client() for _ in range(6)]
        with ThreadPoolExecutor(6) as pool:
            for number, chunk in enumerate(chunks):
                start = number * len(chunk)
                span = {"content-range": f"{start}-{start + len(chunk) - 1}"}
                tries = [pool.submit(client.patch, location, content=chunk, headers=span) for client in clients]
                statuses = sorted(one.result().status_code for one in tries)
                assert statuses[0] == 202
                assert set(statuses[1:]) <= {416, 429}
        digest = digest_of(content)
        assert repository.client.put(location, params={"digest": digest}).status_code == 201

    def test_of_many_that_finish_at_once_one_does(self, registry: LiveRegistry, repository: Repository) -> None:
        clients = [registry.client() for _ in range(6)]
        with ThreadPoolExecutor(6) as pool:
            for _ in range(10):
                content, location = unique() * 1000, repository.start_upload()
                digest = digest_of(content)
                tries = [pool.submit(one.put, location, params={"digest": digest}, content=content) for one in clients]
                statuses = sorted(one.result().status_code for one in tries)
                assert statuses[0] == 201
                assert set(statuses[1:]) <= {404, 429}
                assert repository.get_blob(digest).content == content

    def test_many_push_the_same_blob(self, registry: LiveRegistry, repository: Repository) -> None:
        content = unique() * 50_000
        clients = [registry.client() for _ in range(8)]
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(lambda one: Repository(one, repository.name).push_blob(content), clients)) == {
                digest_of(content)
            }
        assert repository.get_blob(digest_of(content)).content == content


class TestCancel:
    def test_a_cancelled_session_is_gone(self, registry: LiveRegistry, repository: Repository) -> None:
        location = repository.start_upload()
        repository.client.patch(location, content=b"12345")
        assert repository.client.delete(location).status_code == 204
        assert repository.client.get(location).status_code == 404
        assert repository.client.patch(location, content=b"6").status_code == 404
        assert repository.client.delete(location).status_code == 404
        assert _uploads(registry, repository) == []

    def test_a_finished_session_is_gone(self, registry: LiveRegistry, repository: Repository) -> None:
        location, content = repository.start_upload(), unique()
        assert (
            repository.client.put(location, params={"digest": digest_of(content)}, content=content).status_code == 201
        )
        assert repository.client.get(location).status_code == 404
        assert _uploads(registry, repository) == []

    @pytest.mark.parametrize("upload_id", [str(uuid.UUID(int=0)), "..", "%2e%2e", "x", "a" * 300])
    def test_an_unknown_session_is_unknown(self, repository: Repository, upload_id: str) -> None:
        response = repository.client.get(httpx.URL(f"{repository.path}/blobs/uploads/{upload_id}"))
        assert response.status_code in (404, 405)

    def test_a_session_belongs_to_its_repository(self, repository: Repository) -> None:
        upload_id = repository.start_upload().rpartition("/")[2]
        other = repository.sibling("other")
        assert repository.client.get(f"{other.path}/blobs/uploads/{upload_id}").status_code == 404


class TestMount:
    @ALGORITHMS
    def test_a_blob_of_another_repository_needs_no_upload(self, repository: Repository, algorithm: str) -> None:
        content = unique()
        digest = repository.push_blob(content, algorithm)
        target = repository.sibling("mounted")
        response = _mount(target, digest, source=repository.name)
        assert response.status_code == 201
        assert response.headers["location"] == f"{target.path}/blobs/{digest}"
        assert response.headers["docker-content-digest"] == digest
        assert target.get_blob(digest).content == content

    def test_without_a_source_any_readable_repository_will_do(self, repository: Repository) -> None:
        layer = unique()
        repository.push_image("v1", layers=[layer])
        assert _mount(repository.sibling("mounted"), digest_of(layer)).status_code == 201

    def test_what_is_not_there_begins_an_upload_instead(self, repository: Repository) -> None:
        target = repository.sibling("mounted")
        for source in (repository.name, "unknown", "../etc", None):
            response = _mount(target, digest_of(unique()), source=source)
            assert response.status_code == 202
            assert repository.client.get(response.headers["location"]).status_code == 204

    def test_a_blob_that_was_deleted_from_its_source_is_not_mounted(self, repository: Repository) -> None:
        digest = repository.push_blob(unique())
        repository.client.delete(f"{repository.path}/blobs/{digest}")
        assert _mount(repository.sibling("mounted"), digest, source=repository.name).status_code == 202


def test_nobody_mounts_what_they_may_not_read(serve: Serve) -> None:
    """Knowing a digest is no right to its content, with or without naming where it is."""
    policies = [
        {"subjects": ["user:owner"], "repositories": ["**"], "role": "admin"},
        {"subjects": ["user:thief"], "repositories": ["public/**"], "role": "writer"},
        {"subjects": ["user:thief"], "repositories": ["dropbox/**"], "actions": ["push"]},
    ]
    registry = serve({"access": {"policies": policies}}, users={"owner": "o", "thief": "t"})
    owner, thief = registry.client("owner", "o"), registry.client("thief", "t")
    layer = b"secret layer"
    secret = Repository(owner, "secret/app")
    secret.push_image("v1", layers=[layer])
    Repository(owner, "dropbox/app").push_image("v1", layers=[layer])
    loot = Repository(thief, "public/loot")
    for source in ("secret/app", "dropbox/app", None):
        assert _mount(loot, digest_of(layer), source=source).status_code == 202
        assert loot.get_blob(digest_of(layer)).status_code == 404
    Repository(owner, "public/app").push_image("v1", layers=[layer])
    assert _mount(loot, digest_of(layer), source="public/app").status_code == 201
    assert _mount(Repository(thief, "public/more"), digest_of(layer)).status_code == 201


def test_uploads_go_on_at_whatever_worker_takes_the_next_request(serve: Serve) -> None:
    registry = serve(workers=3)
    chunks = [bytes([number]) * 1000 for number in range(30)]
    location = Repository(registry.client(), "app").start_upload()
    for number, chunk in enumerate(chunks):
        with registry.client() as client:  # a new connection, which any worker accepts
            assert _patch(Repository(client, "app"), location, chunk, start=number * 1000).status_code == 202
    content = b"".join(chunks)
    with registry.client() as client:
        assert client.put(location, params={"digest": digest_of(content)}).status_code == 201
        assert Repository(client, "app").get_blob(digest_of(content)).content == content


def test_uploads_go_on_after_a_restart(serve: Serve) -> None:
    registry = serve()
    repository = Repository(registry.client(), "app")
    location = repository.start_upload()
    repository.client.patch(location, content=b"before ")
    registry.kill()
    registry.start()
    assert _patch(repository, location, b"after", start=7).status_code == 202
    assert repository.client.put(location, params={"digest": digest_of(b"before after")}).status_code == 201


class TestPurging:
    def test_uploads_that_nobody_finishes_are_removed_with_age(self, serve: Serve) -> None:
        purging = {"enabled": True, "age": "1s", "interval": "100ms"}
        registry = serve({"storage": {"maintenance": {"uploadpurging": purging}}})
        repository = Repository(registry.client(), "deep/down/app")
        location = repository.start_upload()
        repository.client.patch(location, content=b"left behind")
        crashed = registry.root / "repositories/deep/down/app/_uploads" / str(uuid.uuid4())
        crashed.mkdir()  # what a kill leaves of an upload that was just being started
        until(lambda: _uploads(registry, repository) == [], "the uploads are removed")
        assert repository.client.get(location).status_code == 404

    def test_a_dry_run_only_tells(self, serve: Serve) -> None:
        purging = {"enabled": True, "age": "10ms", "interval": "100ms", "dryrun": True}
        registry = serve({"storage": {"maintenance": {"uploadpurging": purging}}})
        location = Repository(registry.client(), "app").start_upload()
        upload_id = location.rpartition("/")[2]
        until(lambda: upload_id in registry.messages(), "the log tells of the upload")
        assert registry.client().get(location).status_code == 204


def test_a_content_length_beside_a_transfer_encoding_does_not_smuggle(registry: LiveRegistry) -> None:
    """RFC 9112, 6.1 and 6.3: such a message is refused, or answered and its connection closed."""
    smuggled = b"GET /v2/smuggled/tags/list HTTP/1.1\r\nHost: x\r\n\r\n"
    chunked = b"0\r\n\r\n" + smuggled
    head = f"POST /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: {len(chunked)}\r\nTransfer-Encoding: chunked\r\n\r\n"
    with registry.connect() as connection:
        connection.sendall(head.encode() + chunked)
        answers = b""
        while piece := connection.recv(4096):
            answers += piece
    assert answers.count(b"HTTP/1.1 ") <= 1


def _patch(repository: Repository, location: str, chunk: bytes, *, start: int) -> httpx.Response:
    span = f"{start}-{start + len(chunk) - 1}"
    return repository.client.patch(location, content=chunk, headers={"content-range": span})


def _patch_when_free(repository: Repository, location: str, chunk: bytes, *, start: int) -> httpx.Response:
    """Goes on with an upload once the server has noticed that the request before is gone."""
    responses: list[httpx.Response] = []

    def accepted() -> bool:
        responses.append(_patch(repository, location, chunk, start=start))
        return responses[-1].status_code != 429

    until(accepted, "the upload is free")
    return responses[-1]


def _mount(target: Repository, digest: str, *, source: str | None = None) -> httpx.Response:
    query = {"mount": digest} | ({} if source is None else {"from": source})
    return target.client.post(f"{target.path}/blobs/uploads/", params=query)


def _uploads(registry: LiveRegistry, repository: Repository) -> list[str]:
    folder = registry.root / "repositories" / repository.name / "_uploads"
    return [path.name for path in folder.iterdir()] if folder.exists() else []
