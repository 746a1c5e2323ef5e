"""Tokens of the registry's own: who they speak for, what for, how long, and whose they are."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from math import inf
from pathlib import Path
from typing import Any

import jwt
import pytest

from registry_server.auth import ANONYMOUS, Login, Passwords, Subject, Unauthenticated
from registry_server.auth.authenticator import read_token
from registry_server.auth.grants import Grants
from registry_server.auth.htpasswd import entry
from registry_server.auth.login import NOBODY
from registry_server.auth.tokens import LIFETIME, REFRESHED_FOR, Tokens, shared_key

KEY = bytes(range(32))
ROBOT = Login(Subject("serviceaccount", "ci:builder", ("system:authenticated",)))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "htpasswd"
    path.write_text(entry("ci", "secret", 4))
    return path


@pytest.fixture
def passwords(file: Path) -> Passwords:
    return Passwords(file)


@pytest.fixture
def ci(passwords: Passwords) -> Login:
    return passwords.login("ci")


def read(tokens: Tokens, token: str) -> Login:
    return asyncio.run(tokens.verify(read_token(token)))


class TestAccess:
    @pytest.mark.parametrize("login", [NOBODY, ROBOT, Login(Subject.user("oidc:alice", groups=("oidc:dev",)))])
    def test_a_token_speaks_for_whom_it_was_issued(self, login: Login) -> None:
        issued = Tokens(KEY).issue(login)
        assert read(Tokens(KEY), issued.text)[:3] == (login.subject, issued.expires, None)
        assert issued.expires == issued.issued + LIFETIME

    def test_it_is_restricted_to_what_it_was_asked_for(self) -> None:
        grants = Grants.of_scopes(["repository:a:pull"])
        assert read(Tokens(KEY), Tokens(KEY).issue(ROBOT, grants).text).grants == grants
        assert read(Tokens(KEY), Tokens(KEY).issue(ROBOT, Grants()).text).grants == Grants()

    def test_it_ends_with_the_login_it_was_made_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("registry_server.auth.tokens.time.time", lambda: 1000.0)
        assert Tokens(KEY).issue(ROBOT._replace(expires=1010.0)).expires == 1010

    def test_a_token_of_another_key_is_nobodys(self) -> None:
        with pytest.raises(Unauthenticated):
            read(Tokens(KEY), Tokens(b"x" * 32).issue(NOBODY).text)

    @pytest.mark.parametrize(
        "claims",
        [
            pytest.param({"aud": "regatta"}, id="without an end"),
            pytest.param({"exp": 2**33}, id="for no audience"),
            pytest.param({"exp": 2**33, "aud": "another"}, id="for another audience"),
            pytest.param({"exp": 2**33, "aud": "regatta/refresh"}, id="for another use"),
            pytest.param({"exp": 2**33, "aud": "regatta", "iss": "another"}, id="of another issuer"),
            pytest.param({"exp": 1, "aud": "regatta"}, id="that has ended"),
        ],
    )
    def test_a_token_must_be_ours_for_this_and_end(self, claims: dict[str, Any]) -> None:
        with pytest.raises(Unauthenticated):
            read(Tokens(KEY), jwt.encode({"iss": "regatta", **claims}, KEY, "HS256"))

    def test_a_token_without_a_signature_is_nobodys(self) -> None:
        token = jwt.encode({"iss": "regatta", "exp": 2**33, "aud": "regatta"}, None, "none")
        with pytest.raises(Unauthenticated):
            read(Tokens(KEY), token)


class TestPasswords:
    """A token of someone with a password in the htpasswd file rests on that password."""

    def test_it_is_good_as_long_as_the_password_is(self, file: Path, passwords: Passwords, ci: Login) -> None:
        tokens = Tokens(KEY, passwords)
        access, refresh = tokens.issue(ci).text, tokens.issue_refresh(ci)
        assert refresh is not None
        assert read(tokens, access).hashed == ci.hashed
        assert tokens.refreshed(refresh).subject == ci.subject
        for text in (entry("ci", "another", 4), entry("other", "secret", 4)):
            file.write_text(text)
            assert passwords.reload_if_changed()
            for look in (lambda: read(tokens, access), lambda: tokens.refreshed(refresh)):
                with pytest.raises(Unauthenticated):
                    look()

    def test_it_tells_nothing_about_the_password(self, passwords: Passwords, ci: Login) -> None:
        one, other = (Tokens(key, passwords).issue(ci).text for key in (KEY, bytes(32)))
        fingerprints = {jwt.decode(text, options={"verify_signature": False})["password"] for text in (one, other)}
        assert len(fingerprints) == 2

    def test_a_server_without_the_file_does_not_take_it(self, passwords: Passwords, ci: Login) -> None:
        with pytest.raises(Unauthenticated):
            read(Tokens(KEY), Tokens(KEY, passwords).issue(ci).text)

    def test_a_refresh_token_has_an_end_and_gives_no_access(
        self, passwords: Passwords, ci: Login, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("registry_server.auth.tokens.time.time", lambda: 1000.0)
        tokens = Tokens(KEY, passwords)
        refresh = tokens.issue_refresh(ci)
        assert refresh is not None
        claims = jwt.decode(refresh, options={"verify_signature": False})
        assert claims["exp"] == 1000 + REFRESHED_FOR
        with pytest.raises(Unauthenticated):
            read(tokens, refresh)
        with pytest.raises(Unauthenticated):
            tokens.refreshed(refresh)  # which ended in 1970

    @pytest.mark.parametrize("login", [NOBODY, ROBOT, Login(Subject.user("ci"), hashed=b"$2b$04$another")])
    def test_only_who_has_a_password_here_gets_refresh_tokens(self, passwords: Passwords, login: Login) -> None:
        assert Tokens(KEY, passwords).issue_refresh(login) is None
        assert Tokens(KEY).issue_refresh(login) is None


def test_nobody_is_nobody_for_ever() -> None:
    assert Login(ANONYMOUS, inf, None) == NOBODY


class TestSharedKey:
    def test_all_who_come_get_the_same_key(self, tmp_path: Path):
        file = tmp_path / ".regatta" / "token-key"
        with ThreadPoolExecutor(8) as pool:
            keys = set(pool.map(shared_key, [file] * 32))
        assert len(keys) == 1
        assert len(keys.pop()) == 32

    def test_only_the_owner_can_read_it_and_nothing_else_stays(self, tmp_path: Path):
        file = tmp_path / ".regatta" / "token-key"
        shared_key(file)
        assert file.stat().st_mode & 0o777 == 0o600
        assert list(file.parent.iterdir()) == [file]
