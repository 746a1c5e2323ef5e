"""Whatever a client sends: an answer, never a 5xx, and never a file outside the registry's folder."""

import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import suppress

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.server.conftest import METADATA, metadata_settings
from tests.server.content import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, Repository, digest_of
from tests.server.live import LiveRegistry, serving

METHODS = st.sampled_from(["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "TRACE", "X"])
EXISTING = digest_of(b"{}")
COMPONENTS = st.sampled_from(
    [
        *(
            "v2",
            "_catalog",
            "app",
            "team",
            "blobs",
            "uploads",
            "manifests",
            "tags",
            "list",
            "referrers",
            "auth",
            "token",
        ),
        *("", ".", "..", "...", "%2e%2e", "%2e", "%2f", "%5c", "%00", "%0a", "%ff", "%c3%28", "%", "%zz", "%25"),
        *("~", "_manifests", "_layers", "_uploads", "link", "etc", "passwd", "latest", "sha256:", "sha256:0", "CON"),
        *(EXISTING, EXISTING.replace("sha256", "sha512"), EXISTING.upper(), "a" * 256, "0" * 36),
        "00000000-0000-0000-0000-000000000000",
    ]
) | st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="#?"), max_size=12)
PATHS = (
    st.lists(COMPONENTS, max_size=8)
    .map("/".join)
    .flatmap(lambda rest: st.sampled_from([f"/v2/{rest}", f"/v2/app/{rest}", f"/v2/app/blobs/{rest}", f"/{rest}"]))
)
QUERIES = st.lists(
    st.tuples(
        st.sampled_from(
            ["n", "last", "digest", "mount", "from", "tag", "artifactType", "digest-algorithm", "service", "%00"]
        ),
        st.sampled_from(
            ["", "0", "-1", "1e3", "9" * 40, "%00", "%ff", "a" * 300, "../..", EXISTING, "sha256:x", "app", "&", ";"]
        )
        | st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="#"), max_size=8),
    ),
    max_size=5,
).map(lambda pairs: "&".join(f"{name}={value}" for name, value in pairs))
HEADERS = st.dictionaries(
    st.sampled_from(
        [
            *("Range", "Content-Range", "If-None-Match", "If-Range", "Accept", "Content-Type", "Authorization"),
            *(
                "X-Request-Id",
                "X-Forwarded-Proto",
                "X-Forwarded-For",
                "Origin",
                "Cookie",
                "Expect",
                "TE",
                "Docker-Content-Digest",
            ),
        ]
    ),
    st.sampled_from(
        ["", "bytes=0-", "bytes=-0", "0-4", "bytes 0-4/*", "*", "Basic Og==", "Bearer x", OCI_MANIFEST, '"']
    )
    | st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=30),
    max_size=4,
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.just(EXISTING)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["digest", "size", "mediaType", "urls", "annotations", "platform"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)
DESCRIPTORS = st.fixed_dictionaries(
    {
        "mediaType": st.sampled_from([OCI_CONFIG, OCI_LAYER, OCI_MANIFEST]),
        "digest": st.just(EXISTING),
        "size": st.just(2),
    }
)
MANIFESTS = st.fixed_dictionaries(
    {"schemaVersion": st.just(2) | VALUES},
    optional={
        "mediaType": st.sampled_from([OCI_MANIFEST, OCI_INDEX]) | VALUES,
        "config": DESCRIPTORS | VALUES,
        "layers": st.lists(DESCRIPTORS | VALUES, max_size=3) | VALUES,
        "manifests": st.lists(DESCRIPTORS | VALUES, max_size=3) | VALUES,
        "subject": DESCRIPTORS | VALUES,
        "artifactType": VALUES,
        "annotations": VALUES,
    },
)
FUZZ = settings(max_examples=int(os.environ.get("REGATTA_FUZZ", "300")))


@pytest.fixture(scope="module", params=METADATA)
def victim(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveRegistry]:
    """A registry that ends with the files it should have, and with no fault in its log."""
    beside = tmp_path_factory.mktemp("metadata")
    with serving(tmp_path_factory.mktemp("victim"), metadata_settings(request.param, request, beside)) as registry:
        Repository(registry.client(), "app").push_image("latest", layers=[b"{}"])
        yield registry
        registry.stop()
        around = {path.name for path in registry.folder.iterdir()}
        assert around == {"data", "tmp", "config.yml", registry.log.name}
        assert {path.name for path in registry.data.iterdir()} == {"docker", ".regatta"}
        assert [path for path in registry.data.glob(".regatta/**/*") if not path.is_dir()] == []
        assert {path.name for path in registry.root.iterdir()} <= {"blobs", "repositories"}
        for path in registry.root.rglob("*"):
            assert _EXPECTED.fullmatch(str(path.relative_to(registry.root))), path
        assert_faultless(registry)


def assert_faultless(registry: LiveRegistry) -> None:
    """Nothing was asked for that the server had no answer to."""
    assert '"level": "error"' not in registry.log.read_text()


@pytest.fixture(scope="module")
def hostile(victim: LiveRegistry) -> httpx.Client:
    return victim.client()


@FUZZ
@given(method=METHODS, path=PATHS, query=QUERIES, headers=HEADERS, body=st.binary(max_size=20))
def test_any_request_gets_an_answer(
    victim: LiveRegistry, method: str, path: str, query: str, headers: dict[str, str], body: bytes
) -> None:
    head = [f"{method} {path}{'?' if query else ''}{query} HTTP/1.1", "Host: x", "Connection: close"]
    head += [f"{name}: {value}" for name, value in headers.items()] + [f"Content-Length: {len(body)}"]
    answer = _exchange(victim, "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body)
    assert 200 <= _status(answer) < 500, answer


@FUZZ
@given(junk=st.binary(min_size=1, max_size=200))
def test_what_is_no_http_harms_nobody(victim: LiveRegistry, junk: bytes) -> None:
    answer = _exchange(victim, junk + b"\r\n\r\n", hang_up=True)
    assert not answer.startswith(b"HTTP/1.1 5")


@FUZZ
@given(
    manifest=MANIFESTS.map(lambda document: json.dumps(document).encode())
    | VALUES.map(lambda value: json.dumps(value).encode()),
    media_type=st.sampled_from([OCI_MANIFEST, OCI_INDEX, "application/json", ""]),
)
def test_any_manifest_is_stored_as_it_is_or_refused(hostile: httpx.Client, manifest: bytes, media_type: str) -> None:
    repository = Repository(hostile, "app")
    response = repository.put_manifest(manifest, "fuzz", media_type or None)
    assert response.status_code in (201, 400)
    if response.status_code == 201:
        pulled = repository.get_manifest("fuzz")
        assert pulled.content == manifest
        assert pulled.headers["content-type"] in (OCI_MANIFEST, OCI_INDEX)
        assert repository.client.get(f"/v2/app/referrers/{EXISTING}").status_code == 200


@given(name=st.from_regex(r"[a-z0-9._/-]{1,40}", fullmatch=True))
def test_a_name_is_a_repository_if_the_grammar_says_so(victim: LiveRegistry, name: str) -> None:
    """The specification's own expression, in its own words."""
    grammar = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*"
    answer = _exchange(victim, f"GET /v2/{name}/tags/list HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert _status(answer) == (404 if re.fullmatch(grammar, name) else 400)


@pytest.mark.parametrize(
    "request_line",
    [
        b"GET /v2/" + b"a" * 100_000 + b" HTTP/1.1",
        b"GET /v2/_catalog?last=" + b"a" * 60_000 + b" HTTP/1.1",
        b"GET /v2/_catalog?last=%00 HTTP/1.1",
        b"GET " + b"/.." * 20_000 + b" HTTP/1.1",
        b"GET http://other/v2/ HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"CONNECT other:443 HTTP/1.1",
        b"GET /v2/ HTTP/1.0",
        b"GET /v2/ HTTP/9.9",
        b"GET /v2/",
    ],
    ids=lambda line: line[:30].decode(),
)
def test_an_odd_request_line_is_answered_or_the_connection_closed(victim: LiveRegistry, request_line: bytes) -> None:
    answer = _exchange(victim, request_line + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer == b"" or _status(answer) < 500


def test_headers_without_end_are_refused(victim: LiveRegistry) -> None:
    head = b"GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    answer = _exchange(victim, head + b"".join(b"X-%d: %s\r\n" % (n, b"x" * 1000) for n in range(2000)) + b"\r\n")
    assert answer == b"" or 400 <= _status(answer) < 500


def _exchange(registry: LiveRegistry, request: bytes, *, hang_up: bool = False) -> bytes:
    """Sends it and returns all that comes back until the server closes; with `hang_up`, nothing follows the request."""
    answer = b""
    with registry.connect() as connection, suppress(OSError):  # refused in the middle of sending
        connection.sendall(request)
        if hang_up:
            connection.shutdown(socket.SHUT_WR)
        while piece := connection.recv(65_536):
            answer += piece
    return answer


def _status(answer: bytes) -> int:
    match = re.match(rb"HTTP/1\.[01] (\d{3}) ", answer)
    assert match is not None, answer
    return int(match[1])


_DIGEST = r"(sha256(/[0-9a-f]{64}(/link)?)?|sha512(/[0-9a-f]{128}(/link)?)?)"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_EXPECTED = re.compile(
    rf"blobs(/sha256(/[0-9a-f]{{2}}(/[0-9a-f]{{64}}(/data)?)?)?)?|repositories(/{_COMPONENT})*("
    rf"/_uploads(/[0-9a-f-]{{36}}(/(data|startedat))?)?|/_layers(/{_DIGEST})?|/_manifests(/revisions(/{_DIGEST})?|"
    rf"/tags(/[a-zA-Z0-9_][a-zA-Z0-9._-]{{0,127}}(/current(/link)?|/index(/{_DIGEST})?)?)?)?)?"
)
