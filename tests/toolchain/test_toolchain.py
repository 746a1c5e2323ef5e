"""The toolchain finds what is there, trusts only what it verified, and says why something is missing."""

import hashlib
import io
import os
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.fixtures.processes import run
from tests.toolchain.catalog import TOOLS, OnPath, Release, Tool
from tests.toolchain.obtain import Unavailable, find, obtain
from tests.toolchain.progress import Progress

SCRIPT = b"#!/bin/sh\necho hammer 1.4\n"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("REGATTA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tests.toolchain.obtain._failures", {})
    return tmp_path / "cache"


@pytest.fixture
def releases(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A download server: its URL and its folder."""
    folder = tmp_path / "releases"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()
        thread.join()


@pytest.fixture
def progress() -> Progress:
    return Progress(io.StringIO())


def hammer(url: str, folder: Path, digest: str | None = None) -> Tool:
    """A tool whose release is a tar archive with a published checksum."""
    with tarfile.open(folder / "hammer.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo("dist/hammer")
        info.size = len(SCRIPT)
        tar.addfile(info, io.BytesIO(SCRIPT))
    digest = digest or hashlib.sha256((folder / "hammer.tar.gz").read_bytes()).hexdigest()
    (folder / "sums").write_text(f"{'0' * 64}  other.tar.gz\n{digest}  hammer.tar.gz\n")
    return Tool("hammer", "1.4", (Release(f"{url}/hammer.tar.gz", f"{url}/sums", member="dist/hammer"),))


def program(folder: Path, name: str, prints: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho {prints}\n")
    path.chmod(0o755)
    return path


class TestRelease:
    def test_a_release_that_matches_its_published_checksum_is_kept_in_the_cache(
        self, releases: tuple[str, Path], progress: Progress, cache: Path
    ) -> None:
        wanted = hammer(*releases)
        found = obtain(wanted, progress)
        assert found.path.is_relative_to(cache)
        assert run(found.path) == "hammer 1.4\n"
        assert find(wanted) == replace(found, origin="cache")

    def test_a_release_with_another_checksum_is_refused_and_leaves_nothing(
        self, releases: tuple[str, Path], progress: Progress, cache: Path
    ) -> None:
        with pytest.raises(Unavailable, match=r"has SHA-256 .* says ffff"):
            obtain(hammer(*releases, digest="f" * 64), progress)
        assert list((cache / "tools").iterdir()) == []

    def test_an_unreachable_host_is_named(self, progress: Progress) -> None:
        wanted = Tool("hammer", "1.4", (Release("http://127.0.0.1:1/hammer", "http://127.0.0.1:1/sums"),))
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1 cannot be reached"):
            obtain(wanted, progress)

    def test_two_runs_at_once_fetch_a_tool_once(self, releases: tuple[str, Path], progress: Progress) -> None:
        wanted = hammer(*releases)
        origins: list[str] = []
        threads = [threading.Thread(target=lambda: origins.append(obtain(wanted, progress).origin)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(origins) == ["cache", "cache", "cache", "downloaded"]


class TestPlaces:
    def test_a_program_on_path_is_taken_if_its_version_fits(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        installed = program(tmp_path / "bin", "hammer", "hammer v1.4.2")
        monkeypatch.setenv("PATH", f"{installed.parent}{os.pathsep}{os.environ['PATH']}")
        wanted = Tool("hammer", "1.4", (), OnPath(at_least=(1, 4), below=(1, 5)))
        assert (found := find(wanted)) is not None
        assert found.path == installed
        assert find(replace(wanted, on_path=OnPath(at_least=(1, 5)))) is None
        assert find(replace(wanted, on_path=OnPath(below=(1, 4)))) is None

    def test_the_environment_variable_comes_before_path_and_must_hold_the_program(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "assets"))
        with pytest.raises(Unavailable, match=r"KUBEBUILDER_ASSETS names .* which has no program etcd"):
            find(TOOLS["etcd"])
        given = program(tmp_path / "assets", "etcd", "etcd 3.7")
        assert (found := find(TOOLS["etcd"])) is not None
        assert found.path == given

    def test_a_program_whose_name_is_common_is_looked_for_in_its_own_folders_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        installed = program(tmp_path / "bin", "bridge", "bridge 1.0")
        monkeypatch.setenv("PATH", f"{installed.parent}{os.pathsep}{os.environ['PATH']}")
        wanted = Tool("bridge", "any", (), OnPath(folders=(str(tmp_path / "plugins"),)))
        assert find(wanted) is None
        plugin = program(tmp_path / "plugins", "bridge", "bridge 1.0")
        assert (found := find(wanted)) is not None
        assert found.path == plugin

    @pytest.mark.skipif(sys.platform != "linux", reason="ELF is Linux's")
    def test_where_a_static_program_is_needed_a_dynamically_linked_one_is_not_taken(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "snake").symlink_to(sys.executable)
        monkeypatch.setenv("PATH", str(tmp_path))
        wanted = Tool("snake", "any", (), OnPath())
        assert find(wanted) is not None
        assert find(replace(wanted, on_path=OnPath(static=True))) is None
