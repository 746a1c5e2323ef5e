"""Manifest files as input: what is refused, with which words, and what a change does."""

import base64
import textwrap
from pathlib import Path

import pytest

from registry_operator.api.kinds import REGISTRY, SECRET
from registry_operator.cluster.local import StateDirectory
from registry_operator.cluster.local.manifests import Admission, ManifestFiles
from registry_operator.cluster.local.store import ObjectStore
from registry_operator.cluster.protocol import Key
from tests.local.running import local, registry, write

A_REGISTRY = "apiVersion: regatta.dev/v1alpha1\nkind: Registry\nmetadata: {name: a}"


class TestInvalid:
    """`local up` ends with 2 and says what is wrong, where, in the words of kubectl and the API server."""

    @pytest.mark.parametrize(
        ("manifest", "said"),
        [
            (
                "kind: Registry\nmetadata: {name: a}",
                "m.yaml:1: apiVersion not set",
            ),
            (
                "apiVersion: regatta.dev/v1\nkind: Registry\nmetadata: {name: a}",
                'm.yaml:1: no matches for kind "Registry" in version "regatta.dev/v1": the version here is '
                "regatta.dev/v1alpha1",
            ),
            (
                f"# a comment\n---\n{A_REGISTRY}\nspec: {{nope: 1}}",
                'm.yaml:3: Registry in version "v1alpha1" cannot be handled as a Registry: strict decoding error: '
                'unknown field "spec.nope"',
            ),
            (
                f"{A_REGISTRY}\nspec: {{tls: {{disabled: {{}}, selfSigned: {{}}}}}}",
                'm.yaml:1: The Registry "a" is invalid:\n'
                "* spec.tls: Invalid value: exactly one must be given: selfSigned, secretRef or disabled",
            ),
            (
                "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nstringData: {password: 1234}",
                'm.yaml:1: Secret in version "v1" cannot be handled as a Secret: json: cannot unmarshal number into Go '
                "struct field Secret.stringData of type string (key password)",
            ),
            (
                "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ndata: {password: plain text!}",
                'm.yaml:1: Secret in version "v1" cannot be handled as a Secret: illegal base64 data '
                "(key password of data; plain text goes into stringData)",
            ),
            (
                "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ndate: {}",
                'm.yaml:1: Secret in version "v1" cannot be handled as a Secret: '
                'strict decoding error: unknown field "date"',
            ),
            ("apiVersion: v1\nkind: [", "m.yaml:2: no valid YAML:"),
            ("a: 1\na: 2", "m.yaml:2: key 'a' already set in map"),
            ("just text", "m.yaml:1: a document is no mapping with apiVersion, kind and metadata"),
            ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}", "there is no Registry in"),
            ("", "there is no Registry in"),
        ],
    )
    def test_one_manifest(self, tmp_path: Path, manifest: str, said: str) -> None:
        """Each with its place."""
        (tmp_path / "m.yaml").write_text(manifest)
        ended = local("up", tmp_path / "m.yaml", "--state", tmp_path / "state")
        assert ended.returncode == 2
        assert said in ended.stderr.replace(f"{tmp_path}/", "")
        assert "Traceback" not in ended.stderr

    def test_all_faults_are_said_at_once(self, tmp_path: Path) -> None:
        """Over all documents of all files; nothing is started."""
        write(tmp_path / "a.yaml", registry("a", port=0), registry("b", port=1, log={"level": "loud"}))
        (tmp_path / "c.yaml").write_text("{")
        ended = local("up", tmp_path, "--state", tmp_path / "state")
        assert ended.returncode == 2
        second = (tmp_path / "a.yaml").read_text().splitlines().index("---") + 2
        for said in ("a.yaml:1:", "spec.service.port", f"a.yaml:{second}:", "spec.log.level", "c.yaml:"):
            assert said in ended.stderr
        assert not (tmp_path / "state" / "objects").exists()

    def test_no_such_file(self, tmp_path: Path) -> None:
        """Is named."""
        ended = local("up", tmp_path / "nope.yaml", "--state", tmp_path / "state")
        assert ended.returncode == 2
        assert f"{tmp_path}/nope.yaml: there is no such file or directory" in ended.stderr

    def test_one_object_twice(self, tmp_path: Path) -> None:
        """Both places are named."""
        for name in ("a", "b"):
            write(tmp_path / f"{name}.yaml", registry("same", port=1))
        ended = local("up", tmp_path, "--state", tmp_path / "state")
        assert ended.returncode == 2
        assert f"{tmp_path}/b.yaml:1: Registry same stands in {tmp_path}/a.yaml:1 as well" in ended.stderr


class World:
    """Files, a store, and what puts the ones into the other."""

    def __init__(self, root: Path) -> None:
        self.directory = root / "manifests"
        self.directory.mkdir()
        self.store = ObjectStore(StateDirectory(root / "state"))
        self.files = ManifestFiles((self.directory,))
        self.admission = Admission(self.store, self.files, first_port=None)

    def sync(self) -> tuple[list[str], list[str]]:
        """Reads all files; returns the problems, and the names of what was deleted."""
        reading = self.files.read()
        admitted, problems = self.admission.admit(reading)
        return problems, [key.name for key in self.admission.store(admitted, reading)]

    def names(self) -> set[str]:
        return {found["metadata"]["name"] for found in self.store.list(REGISTRY)}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


class TestFollowing:
    """What stands in the files is what shall be."""

    def test_documents_lists_and_json(self, world: World) -> None:
        """Every form that kubectl takes; hidden and other files are left alone."""
        (world.directory / "a.yaml").write_text(
            textwrap.dedent("""
                apiVersion: v1
                kind: List
                items:
                  - {apiVersion: regatta.dev/v1alpha1, kind: Registry, metadata: {name: a}}
                  - {apiVersion: v1, kind: Secret, metadata: {name: s}, stringData: {day: 2026-01-02}, data: {k: dg==}}
                ---
                ---
                apiVersion: regatta.dev/v1alpha1
                kind: Registry
                metadata: {name: b, annotations: {since: 2026-01-02}}
            """)
        )
        (world.directory / "c.json").write_text(
            '{"apiVersion": "regatta.dev/v1alpha1", "kind": "Registry", "metadata": {"name": "c"}}'
        )
        for ignored in (".hidden.yaml", "notes.txt", "d.yaml~"):
            (world.directory / ignored).write_text("no manifest")
        assert world.sync() == ([], [])
        assert world.names() == {"a", "b", "c"}
        secret = world.store.get(Key(SECRET, "default", "s"))
        assert secret is not None
        assert {name: base64.b64decode(value) for name, value in secret["data"].items()} == {
            "day": b"2026-01-02",
            "k": b"v",
        }

    def test_what_is_no_longer_there_is_deleted(self, world: World) -> None:
        """A document of a file, a whole file."""
        write(world.directory / "ab.yaml", registry("a", port=1), registry("b", port=2))
        write(world.directory / "c.yaml", registry("c", port=3))
        world.sync()
        write(world.directory / "ab.yaml", registry("a", port=1))
        assert world.sync() == ([], ["b"])
        (world.directory / "c.yaml").unlink()
        assert world.sync() == ([], ["c"])
        assert world.names() == {"a"}

    def test_nothing_is_deleted_for_a_fault(self, world: World) -> None:
        """A file that can't be read, a document that became invalid: their objects stay as they were."""
        write(world.directory / "a.yaml", registry("a", port=1))
        write(world.directory / "b.yaml", registry("b", port=2))
        world.sync()
        (world.directory / "a.yaml").write_text("{")
        write(world.directory / "b.yaml", registry("b", port=0))
        problems, deleted = world.sync()
        assert len(problems) == 2
        assert deleted == []
        assert {found["spec"]["service"]["port"] for found in world.store.list(REGISTRY)} == {1, 2}

    def test_the_valid_ones_take_effect_beside_invalid_ones(self, world: World) -> None:
        """One broken manifest holds up no other."""
        write(world.directory / "a.yaml", registry("a", port=0))
        write(world.directory / "b.yaml", registry("b", port=2))
        problems, _ = world.sync()
        assert len(problems) == 1
        assert world.names() == {"b"}

    def test_changes_are_seen_once(self, world: World) -> None:
        """New files, edits, and files that go."""
        path = write(world.directory / "a.yaml", registry("a", port=1))
        assert [world.files.changed(), world.files.changed()] == [True, False]
        write(path, registry("a", port=2))
        assert [world.files.changed(), world.files.changed()] == [True, False]

    def test_a_file_that_is_gone_for_an_instant_is_not_gone(self, world: World) -> None:
        """As when an editor saves by removing and writing anew: nobody's password is lost over it."""
        path = write(world.directory / "a.yaml", registry("a", port=1))
        assert world.files.changed()
        path.unlink()
        assert not world.files.changed()
        write(path, registry("a", port=1, log={"level": "debug"}))
        assert world.files.changed()
        path.unlink()
        assert [world.files.changed(), world.files.changed(), world.files.changed()] == [False, True, False]
