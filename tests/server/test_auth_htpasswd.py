"""htpasswd files: which are read, which are refused and how one is written."""

import stat
import string
from pathlib import Path

import bcrypt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry_server.auth.htpasswd import (
    HtpasswdError,
    Users,
    check_password,
    check_user,
    entry,
    hash_password,
    write_entry,
)
from registry_server.config import ConfigError

HASH = "$2a$04$TTUwM5ZoP3EAnY30drBRCeeIf6m/rbY394dVmUrnP79mH7t0p0mui"
"""Of 72 times the letter a, made by Go's bcrypt, which distribution uses."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "htpasswd"


def faults(file: Path, text: str) -> tuple[str, ...]:
    file.write_text(text)
    with pytest.raises(HtpasswdError) as raised:
        Users.load(file)
    return raised.value.faults


class TestReading:
    @pytest.mark.parametrize("kind", ["2a", "2b", "2y"])
    def test_bcrypt_in_all_its_sound_variants(self, file: Path, kind: str) -> None:
        file.write_text(f"alice:${kind}{HASH[3:]}\n")
        hashed = Users.load(file).hashes["alice"]
        assert check_password(b"a" * 72, hashed)
        assert not check_password(b"a" * 71, hashed)

    def test_comments_blanks_and_other_line_ends(self, file: Path) -> None:
        file.write_bytes(f"# people\r\n\r\n  alice:{HASH}\r\n\tbjörn:{HASH}".encode())
        assert list(Users.load(file).hashes) == ["alice", "björn"]

    def test_an_empty_file_has_no_users(self, file: Path) -> None:
        file.touch()
        assert Users.load(file).hashes == {}

    @pytest.mark.parametrize(
        ("hashed", "kind"),
        [
            ("{SHA}5siv5c0SHx681xU6GiSx9ZQryqs=", "SHA-1"),
            ("$apr1$abc$dOAhBVNpIxK4bjhWnHiXO1", "MD5"),
            ("$5$salt$hash", "SHA-256"),
            ("$6$salt$hash", "SHA-512"),
            (f"$2x{HASH[3:]}", "a broken bcrypt"),
            (HASH[:-1], "no bcrypt"),
            ("plain", "no bcrypt"),
        ],
    )
    def test_another_hash_is_refused_with_file_line_and_user_but_never_shown(
        self, file: Path, hashed: str, kind: str
    ) -> None:
        (fault,) = faults(file, f"alice:{HASH}\nbob:{hashed}\n")
        assert fault.startswith(f"{file}:2: user bob has {kind} hash; only bcrypt is safe")
        assert hashed not in fault

    def test_every_fault_is_reported(self, file: Path) -> None:
        found = faults(file, f"nonsense\n:{HASH}\nalice:\nbob:{HASH}\nbob:{HASH}\ncarol:$2b$31{HASH[6:]}\n")
        assert [fault.removeprefix(f"{file}:").partition(":")[0] for fault in found] == ["1", "2", "3", "5", "6"]
        assert "already" in found[3]
        assert "cost of 31" in found[4]

    def test_a_file_that_is_not_there_or_not_text(self, file: Path) -> None:
        with pytest.raises(
            ConfigError, match="cannot be read: No such file or directory; make it with: registry-server"
        ):
            Users.load(file)
        file.write_bytes(b"\xff\xfe")
        with pytest.raises(ConfigError, match="is not a text in UTF-8"):
            Users.load(file)

    @settings(deadline=None)
    @given(st.text(string.printable) | st.text())
    def test_no_text_whatever_fails_otherwise(self, tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
        path = tmp_path_factory.getbasetemp() / "arbitrary-htpasswd"
        path.write_bytes(text.encode(errors="surrogatepass"))
        try:
            users = list(Users.load(path).hashes)
        except HtpasswdError:
            users = []
        assert users == []

    def test_unknown_names_cost_as_much_as_known_ones(self, file: Path) -> None:
        file.write_text(f"alice:{HASH}\nbob:{HASH.replace('$04', '$05')}\ncarol:{HASH}\n")
        dummy = Users.load(file).dummy
        assert dummy[4:6] == b"04"
        assert bcrypt.checkpw(b"a" * 72, dummy) is False

    def test_hashes_are_not_in_its_representation(self, file: Path) -> None:
        file.write_text(f"alice:{HASH}\n")
        assert HASH[7:] not in repr(Users.load(file))


class TestPasswords:
    def test_are_checked_by_their_first_72_bytes_as_in_distribution(self) -> None:
        assert check_password(b"a" * 80, HASH.encode())

    def test_longer_ones_are_not_hashed(self) -> None:
        with pytest.raises(ValueError, match="has 74 bytes and bcrypt looks at 72"):
            hash_password("ä" * 37)
        assert check_password("ä".encode() * 36, hash_password("ä" * 36, 4).encode())

    def test_empty_ones_are_not_hashed(self) -> None:
        with pytest.raises(ValueError, match="empty"):
            hash_password("")

    @settings(deadline=None, max_examples=25)
    @given(st.text(string.printable, min_size=1, max_size=72), st.text(string.printable, max_size=72))
    def test_only_the_right_one_is_right(self, password: str, other: str) -> None:
        hashed = hash_password(password, 4).encode()
        assert check_password(password.encode(), hashed)
        assert check_password(other.encode(), hashed) == (other == password)

    @pytest.mark.parametrize("user", ["", "a:b", "#a", "a b", " a", "a\n", "a\0", "a\u2028b"])
    def test_names_that_no_file_can_hold_are_refused(self, user: str) -> None:
        with pytest.raises(ValueError, match="name must not"):
            check_user(user)


class TestWriting:
    def test_a_new_file_is_for_its_owner_alone(self, file: Path) -> None:
        assert write_entry(file, entry("alice", "secret", 4))
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert check_password(b"secret", Users.load(file).hashes["alice"])

    def test_a_changed_password_replaces_the_line_and_nothing_else(self, file: Path) -> None:
        file.write_text(f"# people\nalice:{HASH}\n\nbob:{HASH}")
        file.chmod(0o640)
        line = entry("alice", "secret", 4)
        assert not write_entry(file, line)
        assert file.read_text() == f"# people\n{line}\n\nbob:{HASH}\n"
        assert stat.S_IMODE(file.stat().st_mode) == 0o640

    def test_a_user_whose_name_begins_another_is_another(self, file: Path) -> None:
        file.write_text(f"alice2:{HASH}\n")
        assert write_entry(file, f"alice:{HASH}")
        assert list(Users.load(file).hashes) == ["alice2", "alice"]

    def test_the_file_is_replaced_never_rewritten(self, file: Path) -> None:
        file.write_text(f"alice:{HASH}\n")
        with file.open() as before:
            write_entry(file, f"bob:{HASH}")
            assert before.read() == f"alice:{HASH}\n"
        assert [path.name for path in file.parent.iterdir()] == ["htpasswd"]

    def test_a_link_stays_a_link(self, file: Path, tmp_path: Path) -> None:
        link = tmp_path / "link"
        link.symlink_to(file)
        write_entry(link, f"alice:{HASH}")
        assert link.is_symlink()
        assert list(Users.load(file).hashes) == ["alice"]
