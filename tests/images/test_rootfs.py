"""The root of an image holds what its programs need, and files that differ from the system's in nothing but symbols."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from images.rootfs import Root, drop_sections, set_time

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="images are Linux's")


@pytest.fixture
def system(tmp_path: Path) -> Path:
    return tmp_path / "system"


@pytest.fixture
def root(tmp_path: Path, system: Path) -> Root:
    """The root of an image, and beside it the system it is filled from."""
    (system / "usr/lib").mkdir(parents=True)
    (tmp_path / "root").mkdir()
    return Root(tmp_path / "root")


class TestRoot:
    def test_a_link_is_followed_and_stays_a_link(self, root: Root, system: Path) -> None:
        (system / "usr/lib/libx.so.1.2").write_text("code")
        (system / "usr/lib/libx.so.1").symlink_to("libx.so.1.2")
        root.add(system / "usr/lib/libx.so.1")
        assert root.at(system / "usr/lib/libx.so.1").readlink() == Path("libx.so.1.2")
        assert root.at(system / "usr/lib/libx.so.1.2").read_text() == "code"

    def test_a_file_is_found_by_way_of_a_linked_folder_as_before(self, root: Root, system: Path) -> None:
        """The loader is asked for as /lib64/ld-linux-x86-64.so.2 where /lib64 leads to /usr/lib64."""
        (system / "usr/lib/ld.so").write_text("code")
        (system / "lib").symlink_to("usr/lib")
        root.add(system / "lib/ld.so")
        assert root.at(system / "lib").readlink() == Path("usr/lib")
        assert root.at(system / "usr/lib/ld.so").read_text() == "code"

    def test_what_fits_a_pattern_is_left_out_at_any_depth(self, root: Root, system: Path) -> None:
        for name in ("a/test/x.py", "a/b/test/x.py", "a/api/pods_api.py", "a/api/__init__.py", "a/x.c"):
            (system / name).parent.mkdir(parents=True, exist_ok=True)
            (system / name).touch()
        root.add_tree(system, ("test", "*.c", "a/api/*_api.py"))
        assert [path.relative_to(system) for path in root.sources] == [Path("a/api/__init__.py")]

    def test_times_are_all_the_same(self, root: Root, system: Path) -> None:
        root.write("/etc/passwd", "")
        (root.top / "link").symlink_to("etc")
        set_time(root.top)
        assert {path.lstat().st_mtime for path in (root.top, *root.top.rglob("*"))} == {315532800}


class TestDropSections:
    def test_a_program_without_symbols_runs_as_before(self, tmp_path: Path) -> None:
        program = tmp_path / "program"
        program.write_bytes(Path("/bin/true").resolve().read_bytes() + b"\0" * 100_000)
        drop_sections(program)
        program.chmod(0o755)
        assert program.stat().st_size < Path("/bin/true").stat().st_size
        subprocess.run([program], check=True)

    def test_an_extension_module_is_loaded_as_before(self, tmp_path: Path) -> None:
        import uvloop.loop as extension

        module = tmp_path / Path(extension.__file__).name
        module.write_bytes(Path(extension.__file__).read_bytes())
        drop_sections(module)
        assert module.stat().st_size < Path(extension.__file__).stat().st_size / 2
        load = (
            "import importlib.util, sys; import uvloop\n"
            f"spec = importlib.util.spec_from_file_location('uvloop.loop', {str(module)!r})\n"
            "loaded = importlib.util.module_from_spec(spec); spec.loader.exec_module(loaded)\n"
            "loop = loaded.Loop(); loop.call_soon(loop.stop); loop.run_forever(); print(loaded.__file__)"
        )
        said = subprocess.run([sys.executable, "-c", load], capture_output=True, text=True, check=True, env=os.environ)
        assert said.stdout.strip() == str(module)
