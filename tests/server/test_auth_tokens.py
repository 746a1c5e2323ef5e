"""Bearer tokens of the registry's own: who they speak for, and whose they are."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jwt
import pytest

from registry_server.auth.subject import ANONYMOUS, Subject
from registry_server.auth.tokens import LIFETIME, Tokens, shared_key

KEY = bytes(range(32))


class TestTokens:
    @pytest.mark.parametrize("subject", [ANONYMOUS, Subject.user("ci")])
    def test_a_token_speaks_for_whom_it_was_issued(self, subject):
        tokens = Tokens(KEY)
        issued = tokens.issue(subject)
        assert tokens.subject(issued["token"]) == subject
        assert issued["access_token"] == issued["token"]
        assert issued["expires_in"] == LIFETIME

    def test_another_process_with_the_same_key_reads_it(self):
        assert Tokens(KEY).subject(Tokens(KEY).issue(Subject.user("ci"))["token"]) == Subject.user("ci")

    def test_a_token_of_another_key_is_nobodys(self):
        assert Tokens(KEY).subject(Tokens(b"x" * 32).issue(Subject.user("ci"))["token"]) is None

    def test_an_expired_token_is_nobodys_even_if_it_was_seen_before(self, monkeypatch):
        tokens = Tokens(KEY)
        token = tokens.issue(Subject.user("ci"))["token"]
        assert tokens.subject(token) is not None
        expires = jwt.decode(token, KEY, ["HS256"], audience="regatta")["exp"]
        monkeypatch.setattr("registry_server.auth.tokens.time.time", lambda: expires + 1)
        assert tokens.subject(token) is None

    @pytest.mark.parametrize(
        "claims",
        [
            pytest.param({"sub": "ci", "aud": "regatta"}, id="without an end"),
            pytest.param({"sub": "ci", "exp": 2**33}, id="for no audience"),
            pytest.param({"sub": "ci", "exp": 2**33, "aud": "another"}, id="for another audience"),
        ],
    )
    def test_a_token_must_be_for_us_and_end(self, claims):
        assert Tokens(KEY).subject(jwt.encode(claims, KEY, "HS256")) is None

    def test_a_token_without_a_signature_is_nobodys(self):
        token = jwt.encode({"sub": "ci", "exp": 2**33, "aud": "regatta"}, None, "none")
        assert Tokens(KEY).subject(token) is None


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
