"""Which manifests may be pushed by the rules of the configuration."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry_server.config import ConfigError, load
from tests.server.conftest import Serve
from tests.server.content import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Repository,
    descriptor,
    error_codes,
    image,
)

EXAMPLE = {"allow": [r"^https?://([^/]+\.)*example\.com/"], "deny": [r"^https?://www\.example\.com/"]}
FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"


def validation(**manifests: Any) -> dict[str, Any]:
    return {"validation": {"manifests": manifests}}


def push_with_urls(repository: Repository, *urls: str, media_type: str = FOREIGN) -> httpx.Response:
    repository.push_blob(b"{}")
    layer = descriptor(b"elsewhere", media_type, urls=list(urls))
    content = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(b"{}", OCI_CONFIG),
        "layers": [layer],
    }
    return repository.put_manifest(json.dumps(content).encode(), "latest")


class TestURLs:
    @pytest.mark.parametrize(
        ("url", "status"),
        [
            ("https://example.com/layer", 201),
            ("https://a.b.example.com/layer", 201),
            ("https://www.example.com/layer", 400),
            ("https://example.org/layer", 400),
            ("https://example.com/layer#part", 400),
            ("ftp://example.com/layer", 400),
            ("https://[", 400),
        ],
    )
    def test_are_matched_by_what_is_allowed_and_not_by_what_is_denied(
        self, serve: Serve, url: str, status: int
    ) -> None:
        repository = Repository(serve(validation(urls=EXAMPLE)).client(), "app")
        assert push_with_urls(repository, url).status_code == status

    def test_each_of_a_layer_counts_whatever_its_type(self, serve: Serve) -> None:
        repository = Repository(serve(validation(urls=EXAMPLE)).client(), "app")
        response = push_with_urls(repository, "https://example.com/a", "https://example.org/b", media_type=OCI_LAYER)
        assert (response.status_code, error_codes(response)) == (400, ["MANIFEST_INVALID"])

    def test_what_is_only_denied_leaves_all_others(self, serve: Serve) -> None:
        repository = Repository(serve(validation(urls={"deny": EXAMPLE["deny"]})).client(), "app")
        assert push_with_urls(repository, "https://example.org/b").status_code == 201
        assert push_with_urls(repository, "https://www.example.com/b").status_code == 400

    def test_without_rules_any_is_taken(self, serve: Serve) -> None:
        assert push_with_urls(Repository(serve().client(), "app"), "https://example.org/b").status_code == 201

    def test_rules_that_are_disabled_are_not_in_force(self, serve: Serve) -> None:
        settings = {"validation": {"disabled": True, "manifests": {"urls": EXAMPLE}}}
        assert push_with_urls(Repository(serve(settings).client(), "app"), "https://example.org/b").status_code == 201

    def test_one_made_to_take_ages_takes_none(self, serve: Serve) -> None:
        """In Python's own engine the example of distribution's documentation would never end on it."""
        repository = Repository(serve(validation(urls=EXAMPLE)).client(), "app")
        assert push_with_urls(repository, f"https://{'a.' * 2000}x").status_code == 400


class TestIndexes:
    ARM, AMD = ({"os": "linux", "architecture": name} for name in ("arm64", "amd64"))

    @pytest.mark.parametrize(
        ("indexes", "missing_arm", "missing_amd"),
        [
            ({"platforms": "all"}, 400, 400),
            ({"platforms": "none"}, 201, 201),
            ({"platforms": "list", "platformlist": [AMD]}, 201, 400),
            ({"platforms": "LIST", "platformlist": []}, 400, 400),
            ({}, 201, 201),
        ],
    )
    def test_what_may_be_missing(
        self, serve: Serve, indexes: dict[str, Any], missing_arm: int, missing_amd: int
    ) -> None:
        repository = Repository(serve(validation(indexes=indexes)).client(), "app")
        arm, amd = repository.push_image(layers=[b"arm"]), repository.push_image(layers=[b"amd"])
        assert self.push(repository, arm, amd) == 201
        assert self.push(repository, image(layers=[b"not there"]), amd) == missing_arm
        assert self.push(repository, arm, image(layers=[b"not there"])) == missing_amd

    def push(self, repository: Repository, arm: bytes, amd: bytes) -> int:
        entries = [
            descriptor(arm, OCI_MANIFEST, platform=self.ARM),
            descriptor(amd, OCI_MANIFEST, platform=self.AMD),
        ]
        content = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
        return repository.put_manifest(json.dumps(content).encode(), "index", OCI_INDEX).status_code

    def test_two_settings_that_say_it_are_a_fault(self, tmp_path: Path) -> None:
        config = tmp_path / "config.yml"
        settings = validation(indexes={"platforms": "all"}) | {"manifests": {"sparse": "all"}}
        config.write_text(json.dumps({"version": 0.1, "storage": "filesystem", **settings}))
        with pytest.raises(ConfigError, match="say both what an index may lack; remove one of them"):
            load(config, {})


def test_what_is_no_expression_is_a_fault_where_it_stands(tmp_path: Path) -> None:
    config = tmp_path / "config.yml"
    config.write_text(
        "version: 0.1\nstorage: filesystem\nvalidation:\n  manifests:\n    urls:\n      allow:\n        - (a\n"
    )
    with pytest.raises(ConfigError) as raised:
        load(config, {})
    place = f"{config}:7: validation.manifests.urls.allow[0]"
    assert raised.value.faults == (
        f"{place}: (a is no regular expression: unclosed group; write it in the syntax of RE2",
    )
