"""crane, as on a file system, with content that comes from the store by redirects."""

import json
from pathlib import Path

from tests.clients.test_crane import (  # noqa: F401
    Crane,
    at_private,
    at_public,
    test_a_multi_platform_image_is_whole,
    test_a_public_image_is_for_everyone_to_pull_and_for_some_to_push,
    test_an_archive_of_docker_is_pushed_and_pulled,
)
from tests.fixtures.images import make_oci_layout


def test_an_image_is_pushed_copied_tagged_listed_and_deleted(at_private: Crane, tmp_path: Path) -> None:  # noqa: F811
    layout = make_oci_layout(tmp_path / "layout", [b"one", 12 << 20])
    image, copy = f"{at_private.at}/crane/image", f"{at_private.at}/crane/copy"
    at_private("push", tmp_path / "layout", f"{image}:1")
    at_private("validate", "--remote", f"{image}:1")
    at_private("tag", f"{image}:1", "stable")
    assert at_private("ls", image).split() == ["1", "stable"]
    at_private("copy", f"{image}:stable", f"{copy}:2")
    at_private("validate", "--remote", f"{copy}:2")
    at_private("delete", f"{image}:stable")
    assert at_private("ls", image).split() == ["1"]
    at_private("delete", f"{image}@{layout.digest}")
    assert json.loads(at_private("manifest", f"{copy}:2"))["layers"]
