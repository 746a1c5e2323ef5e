"""Assembles the root of a final image inside the build: a virtualenv, its Python, and only what these need to run.

    stdlib + venv ─► shared libraries (ldd) ─► packages' records ─► bytecode ─► one time for all

Called by the Dockerfile in the build stage, by the Python that the image gets; only the standard library is needed.
There is no shell, no package manager and no pip in what it writes.
"""

import argparse
import compileall
import os
import py_compile
import re
import shutil
import struct
import subprocess
import sys
import sysconfig
from fnmatch import fnmatch
from pathlib import Path

# Of no use to a server; `test` alone is as large as the rest. From `curses` on they bring libraries.
_STDLIB_WITHOUT = (
    "__pycache__", "site-packages", "dist-packages", "config-*", "test", "idlelib", "turtledemo", "turtle.py",
    "tkinter", "lib2to3", "pydoc_data", "distutils", "ensurepip", "_tkinter*", "_test*", "_ctypes_test*", "_xx*",
    "xxlimited*", "curses", "_curses*", "readline.*", "nis.*", "_dbm*", "_gdbm*",
    "fetch_macholib*",
)  # fmt: skip
# What wheels carry for those who compile against them or check types.
_SOURCES = ("__pycache__", "*.pyx", "*.pxd", "*.pyi", "*.pxi", "*.c", "*.h")
_SYSTEM_FILES = ("/etc/os-release", "/etc/ssl/certs/ca-certificates.crt", "/usr/lib/ssl/openssl.cnf")
_USER = 65532  # of the operator's pod templates
_TIME = 315532800  # 1980, as early as zip archives can say

_PASSWD = f"""\
root:x:0:0:root:/:/sbin/nologin
regatta:x:{_USER}:{_USER}:regatta:/nonexistent:/sbin/nologin
"""
_GROUP = f"root:x:0:\nregatta:x:{_USER}:\n"


class Root:
    """A folder that becomes a root file system; files of the running system are added under their own paths."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.sources: set[Path] = set()

    def at(self, path: Path) -> Path:
        return self.top / path.relative_to("/")

    def add(self, path: Path) -> None:
        """Copies the file. Of a link both the link and what it leads to; linked folders stay links, too."""
        for folder in reversed(path.parents):
            if folder.is_symlink():
                self._link(folder)
        path = path.parent.resolve() / path.name
        if path in self.sources:
            return
        self.sources.add(path)
        if path.is_symlink():
            self._link(path)
            self.add(path.parent / path.readlink())
        else:
            self.at(path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, self.at(path))

    def add_tree(self, top: Path, without: tuple[str, ...]) -> None:
        """Copies the folder without the entries at any depth whose name, or whose path below `top`, fits a pattern."""
        for folder, subfolders, files in os.walk(top):
            below = Path(folder).relative_to(top)

            def wanted(name: str, below: Path = below) -> bool:
                return not any(fnmatch(name, one) or fnmatch(str(below / name), one) for one in without)

            subfolders[:] = filter(wanted, subfolders)
            for name in filter(wanted, files):
                self.add(Path(folder) / name)

    def write(self, path: str, content: str) -> None:
        target = self.at(Path(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)

    def _link(self, path: Path) -> None:
        link = self.at(path.parent.resolve() / path.name)
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(path.readlink())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("root", type=Path, help="the folder to fill")
    parser.add_argument("--venv", type=Path, required=True, help="the virtualenv; it keeps its path")
    parser.add_argument("--script", required=True, help="the one command of the virtualenv to keep")
    parser.add_argument("--without", action="append", default=[], help="a pattern of paths below site-packages to omit")
    parser.add_argument("--owned", type=Path, action="append", default=[], help="a folder that the image's user owns")
    asked = parser.parse_args()
    root = Root(asked.root)
    add_python(root, asked.venv, asked.script, tuple(asked.without))
    add_system(root, asked.owned)
    add_libraries(root)
    record_packages(root)
    compile_bytecode(root)
    set_time(root.top)
    sys.stdout.write(f"{asked.root}: {_size(root.top) / 1e6:.0f} MB in {len(root.sources)} files\n")


def add_python(root: Root, venv: Path, script: str, without: tuple[str, ...]) -> None:
    """The interpreter, its standard library, and the virtualenv with one of its commands."""
    for name in ("pyvenv.cfg", "bin/python", f"bin/{script}"):
        root.add(venv / name)
    for stdlib in {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}:
        root.add_tree(Path(stdlib), _STDLIB_WITHOUT)
    for packages in venv.glob("lib/python*/site-packages"):
        root.add_tree(packages, _SOURCES + without)


def add_system(root: Root, owned: list[Path]) -> None:
    """The few files of a system that programs look for: users, name resolution, certificate authorities, /tmp."""
    for name in _SYSTEM_FILES:
        if Path(name).exists():
            root.add(Path(name))
    root.write("/etc/passwd", _PASSWD)
    root.write("/etc/group", _GROUP)
    root.write("/etc/nsswitch.conf", "hosts: files dns\n")
    root.at(Path("/tmp")).mkdir()  # noqa: S108
    root.at(Path("/tmp")).chmod(0o1777)  # noqa: S108
    for folder in owned:
        root.at(folder).mkdir(parents=True)
        os.chown(root.at(folder), _USER, _USER)


def add_libraries(root: Root) -> None:
    """The shared libraries that the copied programs and extensions ask for, and the loader's index of them."""
    for program in filter(_is_elf, sorted(root.sources)):
        for library in _libraries(program):
            root.add(library)
    for binary in filter(_is_elf, root.sources):
        drop_sections(root.at(binary))
    for path in (Path("/etc/ld.so.conf"), *Path("/etc/ld.so.conf.d").glob("*.conf")):
        root.add(path)
    subprocess.run(["ldconfig", "-X", "-r", str(root.top)], check=True)
    shutil.rmtree(root.top / "var/cache", ignore_errors=True)


def _is_elf(path: Path) -> bool:
    if path.is_symlink():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _libraries(path: Path) -> list[Path]:
    listed = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=False).stdout
    if missing := re.findall(r"(\S+) => not found", listed):
        raise SystemExit(f"{path} needs {', '.join(missing)}, which the base image does not have")
    return [Path(found) for found in re.findall(r"(?:=> |^\s+)(/\S+) \(0x", listed, re.MULTILINE)]


def drop_sections(path: Path) -> None:
    """Cuts symbols and debugging information off a 64-bit ELF file, as `strip` does, which slim images lack.

    A program runs from its segments (elf(5), program headers). Sections are for linkers and debuggers; those that no
    segment holds stand at the file's end.
    """
    content = bytearray(path.read_bytes())
    if content[4] != 2:  # EI_CLASS is not ELFCLASS64
        return
    order = "<" if content[5] == 1 else ">"
    table, entry_size, entries = struct.unpack_from(f"{order}Q14xHH", content, 32)
    end = table + entry_size * entries
    for index in range(entries):
        offset, size = struct.unpack_from(f"{order}8xQ16xQ", content, table + entry_size * index)
        end = max(end, offset + size)
    struct.pack_into(f"{order}Q", content, 40, 0)  # e_shoff
    struct.pack_into(f"{order}HH", content, 60, 0, 0)  # e_shnum, e_shstrndx
    path.write_bytes(content[:end])


def record_packages(root: Root) -> None:
    """Notes the packages that files came from, where scanners for vulnerabilities look, and their licences."""
    owners = {}
    for listing in Path("/var/lib/dpkg/info").glob("*.list"):
        for line in listing.read_text().splitlines():
            owners[Path(line).parent.resolve() / Path(line).name] = listing.stem
    for package in sorted({owners[path] for path in root.sources if path in owners}):
        status = subprocess.run(["dpkg-query", "--status", package], capture_output=True, text=True, check=True).stdout
        name = package.partition(":")[0]
        root.write(f"/var/lib/dpkg/status.d/{name}", status)
        licence = Path("/usr/share/doc") / name / "copyright"
        if licence.exists():
            root.add(licence)


def compile_bytecode(root: Root) -> None:
    """Compiles all modules once, as nobody may write into the image later.

    Validated by nothing: neither are the sources ever changed, nor would their times be the same in another build.
    """
    compiled = compileall.compile_dir(
        root.top,
        maxlevels=50,
        quiet=1,
        stripdir=root.top,
        prependdir="/",
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
    if not compiled:
        raise SystemExit("not all modules could be compiled")


def set_time(top: Path) -> None:
    """Gives each file and folder the one time, so that the same content is the same layer whenever it was built."""
    for folder, _, files in os.walk(top, topdown=False):
        for name in files:
            os.utime(Path(folder) / name, (_TIME, _TIME), follow_symlinks=False)
        for link in Path(folder).iterdir():
            if link.is_symlink():
                os.utime(link, (_TIME, _TIME), follow_symlinks=False)
        os.utime(folder, (_TIME, _TIME))


def _size(top: Path) -> int:
    return sum(path.lstat().st_size for path in top.rglob("*") if path.is_file() and not path.is_symlink())


if __name__ == "__main__":
    main()
