"""Builds the project's images for tests, with buildah on a Debian made by debootstrap: no image registry is needed."""

import os
import sys
from pathlib import Path

from images.build import Image, build
from images.engines import Buildah
from tests.fixtures.tools import Need, unavailable
from tests.toolchain.obtain import cache_dir


def build_images(need: Need, out: Path, *, no_cache: bool = False) -> dict[str, Image]:
    """The images `server` and `operator` as archives in `out`. Minutes the first time, seconds when nothing changed.

    REGATTA_BASE_IMAGE names another base. Skips the test where they can't be built.
    """
    if sys.platform != "linux" or os.geteuid() != 0:
        unavailable("building images without Docker needs Linux and root")
    base = os.environ.get("REGATTA_BASE_IMAGE", "debootstrap")
    if base == "debootstrap":
        need("debootstrap")
    engine = Buildah(need("buildah"), cache_dir() / "images" / "buildah")
    server, operator = build(engine, base=base, prefix="regatta", tag="e2e", out=out, no_cache=no_cache)
    return {"server": server, "operator": operator}
