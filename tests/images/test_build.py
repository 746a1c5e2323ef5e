"""What `make images` does around the builders: package index settings go in, digests and sizes come out."""

import configparser
import gzip
import hashlib
import json
import re
import tarfile
from pathlib import Path

import pytest

from images import build
from images.build import Image, package_index
from tests.fixtures.images import make_docker_archive

PROJECT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine without settings of its own for pip."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    for name in ("PIP_CERT", "PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def settings(path: Path) -> dict[str, str]:
    config = configparser.RawConfigParser()
    config.read(path)
    return dict(config["global"])


class TestPackageIndex:
    def test_variables_outdo_pips_files(self, machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "pip.conf").write_text(
            "[global]\nindex-url = https://me:secret@packages.test/simple\ntimeout = 7\n"
        )
        machine.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
        machine.setenv("PIP_DEFAULT_TIMEOUT", "9")
        with package_index() as secrets:
            given = settings(secrets["pip.conf"])
        assert given["index-url"] == "https://me:secret@packages.test/simple"
        assert given["timeout"] == "9"

    def test_several_indexes_stay_several(self, machine: pytest.MonkeyPatch) -> None:
        machine.setenv("PIP_EXTRA_INDEX_URL", "https://a.test/simple https://b.test/simple")
        with package_index() as secrets:
            given = settings(secrets["pip.conf"])
        assert given["extra-index-url"].split() == ["https://a.test/simple", "https://b.test/simple"]

    def test_a_certificate_authority_comes_as_a_file_of_its_own(
        self, machine: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "corporate.pem").write_text("certificates")
        machine.setenv("PIP_CERT", str(tmp_path / "corporate.pem"))
        with package_index() as secrets:
            assert settings(secrets["pip.conf"])["cert"] == "/run/secrets/ca.pem"
            assert secrets["ca.pem"].read_text() == "certificates"

    def test_folders_of_this_machine_are_left_out(self, machine: pytest.MonkeyPatch) -> None:
        machine.setenv("PIP_FIND_LINKS", "/opt/wheels https://packages.test/wheels")
        with package_index() as secrets:
            assert settings(secrets["pip.conf"])["find-links"] == "https://packages.test/wheels"

    def test_only_the_owner_may_read_it_and_nothing_stays(self, machine: pytest.MonkeyPatch) -> None:
        machine.setenv("PIP_INDEX_URL", "https://me:secret@packages.test/simple")
        with package_index() as secrets:
            folder = secrets["pip.conf"].parent
            assert folder.stat().st_mode & 0o077 == 0
        assert not folder.exists()


class TestImage:
    def test_digest_and_sizes_are_those_of_the_content(self, tmp_path: Path) -> None:
        archive = make_docker_archive(tmp_path / "image.tar", [b"0" * 1_000_000, 50_000], name="docker.io/regatta/x:1")
        image = Image.read(archive)
        with tarfile.open(archive) as tar:
            config, layers = (json.load(tar.extractfile("manifest.json"))[0][key] for key in ("Config", "Layers"))  # type: ignore[arg-type]
            unpacked = [tar.extractfile(layer).read() for layer in layers]  # type: ignore[union-attr]
            digest = hashlib.sha256(tar.extractfile(config).read()).hexdigest()  # type: ignore[union-attr]
        assert image.name == "regatta/x:1"
        assert image.digest == f"sha256:{digest}"
        assert image.size == sum(map(len, unpacked))
        assert abs(image.transfer - sum(len(gzip.compress(layer, 6)) for layer in unpacked)) < 100


class TestSources:
    def test_images_get_the_versions_that_were_tested(self) -> None:
        """What an image's lock has stands in that of the tests with the same version."""
        tested = _locked("dev")
        for image in ("server", "operator", "build"):
            assert _locked(image).items() <= tested.items()

    def test_the_version_is_that_of_the_distribution(self) -> None:
        assert build.version() in (PROJECT / "registry_server" / "__init__.py").read_text()

    def test_the_base_is_pinned_to_a_release_of_python(self) -> None:
        dockerfile = (PROJECT / "Dockerfile").read_text()
        assert re.search(r"^ARG BASE_IMAGE=\S+/python:3\.\d+\.\d+-slim-\w+$", dockerfile, re.MULTILINE)


def _locked(name: str) -> dict[str, str]:
    lines = (PROJECT / "requirements" / f"{name}.txt").read_text()
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", lines, re.MULTILINE))
