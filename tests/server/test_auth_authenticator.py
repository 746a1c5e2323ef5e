"""The authenticator: one bcrypt for a credential, a look-up afterwards, and nothing for strangers."""

import asyncio
import base64
import itertools
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry_server.auth import (
    ANONYMOUS,
    Authenticator,
    HtpasswdError,
    Passwords,
    Subject,
    TooManyAttempts,
    Unauthenticated,
    basic_challenge,
)
from registry_server.auth.htpasswd import entry
from registry_server.auth.throttle import Throttle

ALICE = entry("alice", "wonderland", 4)
BOB = entry("bob", "builder", 4)
HERE = "192.0.2.1"


def basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "htpasswd"
    path.write_text(f"{ALICE}\n{BOB}\n")
    return path


def reading(
    file: Path, *, concurrency: int = 2, checked: int = 66, remembered: int = 1000, throttle: Throttle | None = None
) -> Authenticator:
    passwords = Passwords(file, concurrency=concurrency)
    return Authenticator(passwords=passwords, checked=checked, remembered=remembered, throttle=throttle)


@pytest.fixture
def logins(file: Path) -> Iterator[Authenticator]:
    authenticator = reading(file)
    yield authenticator
    authenticator.close()


async def who(authenticator: Authenticator, header: str | None, address: str = HERE) -> Subject:
    return (await authenticator.authenticate(header, address)).subject


def login(authenticator: Authenticator, user: str, password: str, address: str = HERE) -> Subject:
    return asyncio.run(who(authenticator, basic(user, password), address))


def known(authenticator: Authenticator, user: str, password: str) -> bool:
    return authenticator.recognize(basic(user, password)) is not None


def replace(file: Path, text: str) -> None:
    """As the command and Kubernetes do: another file under the same name."""
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)


class TestLogins:
    def test_the_right_password_is_who_it_says(self, logins: Authenticator) -> None:
        assert login(logins, "alice", "wonderland") == Subject("user", "alice")

    @pytest.mark.parametrize(("user", "password"), [("alice", "builder"), ("alice", ""), ("mallory", "x"), ("", "")])
    def test_everything_else_is_not(self, logins: Authenticator, user: str, password: str) -> None:
        with pytest.raises(Unauthenticated):
            login(logins, user, password)
        assert not known(logins, user, password)

    def test_without_a_header_nobody_is_logged_in(self, logins: Authenticator) -> None:
        assert asyncio.run(who(logins, None)) == ANONYMOUS

    def test_without_an_htpasswd_file_everyone_is_anonymous(self) -> None:
        authenticator = Authenticator()
        assert not authenticator.enabled
        assert login(authenticator, "alice", "wonderland") == ANONYMOUS
        assert asyncio.run(who(authenticator, "Bearer x")) == ANONYMOUS
        assert not authenticator.reload_if_changed()

    @pytest.mark.parametrize("scheme", ["basic", "BASIC", "Basic "])
    def test_the_scheme_is_known_in_any_case(self, logins: Authenticator, scheme: str) -> None:
        header = basic("alice", "wonderland").replace("Basic", scheme)
        assert asyncio.run(who(logins, header)).name == "alice"

    @pytest.mark.parametrize(
        "header",
        [
            "",
            "Basic",
            "Basic ",
            "Basic !",
            "Basic YWxpY2U=",
            "Basic YQ",
            "Bearer YTpi",
            "Basic /zp4",
            "Basic \ud800",
            "Basic é",
        ],
    )
    def test_malformed_headers_are_refused(self, logins: Authenticator, header: str) -> None:
        with pytest.raises(Unauthenticated):
            asyncio.run(who(logins, header))

    def test_overlong_headers_are_refused_unread(self, file: Path) -> None:
        file.write_text(entry("alice", "x" * 72, 4))
        logins = reading(file)
        assert login(logins, "alice", "x" * 1000).name == "alice"
        with pytest.raises(Unauthenticated):
            login(logins, "alice", "x" * (32 << 10))
        logins.close()

    @settings(deadline=None, max_examples=50)
    @given(header=st.text(), password=st.binary(max_size=80))
    def test_no_header_whatever_fails_otherwise(
        self, tmp_path_factory: pytest.TempPathFactory, header: str, password: bytes
    ) -> None:
        path = tmp_path_factory.getbasetemp() / "logins"
        path.write_text(ALICE)
        authenticator = reading(path, throttle=Throttle(tries=10_000))
        for one in (
            header,
            f"Bearer {header}",
            f"Basic {header}",
            f"Basic {base64.b64encode(b'alice:' + password).decode()}",
        ):
            with pytest.raises(Unauthenticated):
                asyncio.run(who(authenticator, one))
        authenticator.close()

    def test_a_file_that_cannot_be_used_is_no_authenticator(self, file: Path) -> None:
        file.write_text("alice:{SHA}5siv5c0SHx681xU6GiSx9ZQryqs=")
        with pytest.raises(HtpasswdError, match="user alice"):
            Passwords(file)


class TestCost:
    def test_a_credential_is_checked_once(self, logins: Authenticator) -> None:
        header = basic("alice", "wonderland")
        assert logins.recognize(header) is None
        login(logins, "alice", "wonderland")
        recognized = logins.recognize(header)
        assert recognized is not None
        assert recognized.subject == Subject("user", "alice")

    def test_requests_that_come_meanwhile_share_the_check(self, file: Path) -> None:
        logins = reading(file, concurrency=1, checked=1)

        async def several() -> list[Subject]:
            header = basic("alice", "wonderland")
            return await asyncio.gather(*(who(logins, header) for _ in range(5)))

        assert asyncio.run(several()) == [Subject("user", "alice")] * 5
        logins.close()

    def test_one_that_is_cancelled_does_not_end_it_for_the_others(self, logins: Authenticator) -> None:
        async def first_goes_away() -> Subject:
            header = basic("alice", "wonderland")
            first, second = (asyncio.create_task(who(logins, header)) for _ in range(2))
            await asyncio.sleep(0)
            first.cancel()
            return await second

        assert asyncio.run(first_goes_away()) == Subject("user", "alice")

    def test_more_than_may_wait_are_turned_away_and_later_ones_are_not(self, file: Path) -> None:
        logins = reading(file, concurrency=1, checked=2)

        async def four() -> list[Subject | BaseException]:
            headers = [basic("alice", "wonderland"), basic("mallory", "x"), basic("bob", "builder"), basic("bob", "x")]
            return await asyncio.gather(*(who(logins, one) for one in headers), return_exceptions=True)

        outcomes = asyncio.run(four())
        assert outcomes[0] == Subject("user", "alice")
        assert list(map(type, outcomes[1:])) == [Unauthenticated, TooManyAttempts, TooManyAttempts]
        assert login(logins, "bob", "builder").name == "bob"
        logins.close()

    def test_known_credentials_are_served_while_others_wait(self, file: Path) -> None:
        logins = reading(file, concurrency=1, checked=1)
        login(logins, "alice", "wonderland")

        async def beside_another() -> Subject:
            waiting = asyncio.create_task(who(logins, basic("bob", "builder")))
            await asyncio.sleep(0)
            found = await who(logins, basic("alice", "wonderland"))
            assert not waiting.done()
            await waiting
            return found

        assert asyncio.run(beside_another()).name == "alice"
        logins.close()

    def test_only_so_many_credentials_are_remembered_the_last_used(self, file: Path) -> None:
        file.write_text("\n".join([ALICE, BOB, entry("carol", "singer", 4)]))
        logins = reading(file, remembered=2)
        login(logins, "alice", "wonderland")
        login(logins, "bob", "builder")
        known(logins, "alice", "wonderland")
        login(logins, "carol", "singer")
        assert known(logins, "alice", "wonderland")
        assert not known(logins, "bob", "builder")
        logins.close()

    def test_a_name_that_does_not_exist_takes_as_long_as_one_that_does(self, file: Path) -> None:
        file.write_text(entry("alice", "wonderland", 9))
        logins = reading(file)

        another = itertools.count()

        def seconds(user: str) -> float:
            start = time.perf_counter()
            with pytest.raises(Unauthenticated):
                login(logins, user, f"wrong {next(another)}")
            return time.perf_counter() - start

        known, unknown = (min(seconds(user) for _ in range(3)) for user in ("alice", "mallory"))
        assert known / 4 < unknown < known * 4
        logins.close()


class TestThrottling:
    """30 failures, then one more every five seconds, unless told otherwise."""

    def test_who_was_wrong_too_often_is_not_looked_at_and_told_when_to_come_again(self, file: Path) -> None:
        logins = reading(file, throttle=Throttle(tries=2, every=60))
        for password in ("one", "two"):
            with pytest.raises(Unauthenticated):
                login(logins, "alice", password)
        with pytest.raises(TooManyAttempts) as refused:
            login(logins, "alice", "wonderland")
        assert 0 < refused.value.retry_after <= 60
        assert login(logins, "alice", "wonderland", "192.0.2.2").name == "alice"
        logins.close()

    def test_who_is_known_already_is_never_throttled(self, file: Path) -> None:
        logins = reading(file, throttle=Throttle(tries=1, every=60))
        login(logins, "alice", "wonderland")
        for user in ("alice", "mallory"):
            with pytest.raises((Unauthenticated, TooManyAttempts)):
                login(logins, user, "wrong")
        assert login(logins, "alice", "wonderland").name == "alice"
        logins.close()

    def test_the_same_wrong_password_again_and_again_counts_once(self, file: Path) -> None:
        """As from a node with an old pull secret, whose other logins must still work."""
        logins = reading(file, throttle=Throttle(tries=2, every=60))
        for _ in range(5):
            with pytest.raises(Unauthenticated):
                login(logins, "alice", "old")
        assert login(logins, "alice", "wonderland").name == "alice"
        logins.close()

    def test_a_password_that_was_wrong_is_right_once_the_file_says_so(self, file: Path, logins: Authenticator) -> None:
        with pytest.raises(Unauthenticated):
            login(logins, "alice", "new")
        replace(file, entry("alice", "new", 4))
        assert logins.reload_if_changed()
        assert login(logins, "alice", "new").name == "alice"


class TestReload:
    def test_a_new_user_can_log_in(self, file: Path, logins: Authenticator) -> None:
        replace(file, f"{ALICE}\n{entry('carol', 'singer', 4)}\n")
        assert logins.reload_if_changed()
        assert login(logins, "carol", "singer").name == "carol"

    def test_who_is_gone_or_has_another_password_is_out_and_the_others_are_not(
        self, file: Path, logins: Authenticator
    ) -> None:
        login(logins, "alice", "wonderland")
        login(logins, "bob", "builder")
        replace(file, f"{ALICE}\n{entry('bob', 'new', 4)}\n")
        assert logins.reload_if_changed()
        assert known(logins, "alice", "wonderland")
        assert not known(logins, "bob", "builder")
        with pytest.raises(Unauthenticated):
            login(logins, "bob", "builder")
        replace(file, "")
        assert logins.reload_if_changed()
        assert not known(logins, "alice", "wonderland")

    def test_an_unchanged_file_is_not_read_again(self, file: Path, logins: Authenticator) -> None:
        assert not logins.reload_if_changed()
        replace(file, file.read_text())
        assert logins.reload_if_changed()
        assert not logins.reload_if_changed()

    def test_a_login_checked_against_a_hash_that_changed_meanwhile_is_not_remembered(
        self, file: Path, logins: Authenticator
    ) -> None:
        async def changed_meanwhile() -> Subject:
            task = asyncio.create_task(who(logins, basic("alice", "wonderland")))
            for _ in range(2):  # the request begins, then its check
                await asyncio.sleep(0)
            replace(file, entry("alice", "new", 4))
            assert logins.reload_if_changed()
            return await task

        asyncio.run(changed_meanwhile())
        assert not known(logins, "alice", "wonderland")

    def test_a_broken_file_changes_nothing_and_is_logged_once(
        self, file: Path, logins: Authenticator, caplog: pytest.LogCaptureFixture
    ) -> None:
        login(logins, "alice", "wonderland")
        replace(file, "alice:plain\n")
        with caplog.at_level(logging.INFO, "registry_server.auth"):
            assert [logins.reload_if_changed() for _ in range(3)] == [False] * 3
        (record,) = caplog.records
        assert "htpasswd:1: user alice has no bcrypt hash" in record.message
        assert "plain" not in record.message
        assert known(logins, "alice", "wonderland")

    def test_a_file_that_went_away_changes_nothing_until_it_is_back(
        self, file: Path, logins: Authenticator, caplog: pytest.LogCaptureFixture
    ) -> None:
        file.unlink()
        with caplog.at_level(logging.ERROR, "registry_server.auth"):
            assert [logins.reload_if_changed() for _ in range(3)] == [False] * 3
        assert len(caplog.records) == 1
        assert login(logins, "alice", "wonderland").name == "alice"
        file.write_text(BOB)
        assert logins.reload_if_changed()
        with pytest.raises(Unauthenticated):
            login(logins, "alice", "wonderland")


@pytest.mark.parametrize(
    ("realm", "challenge"),
    [("Registry", 'Basic realm="Registry"'), ('The "best" \\o/', r'Basic realm="The \"best\" \\o/"')],
)
def test_the_challenge_quotes_its_realm(realm: str, challenge: str) -> None:
    assert basic_challenge(realm) == challenge
