"""The logins of an htpasswd file: passwords checked in threads, the file read again when it changes.

bcrypt costs tens of milliseconds by design; whoever asks remembers what was right.
"""

import asyncio
import hmac
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from registry_server.auth.htpasswd import HtpasswdError, Stamp, Users, check_password
from registry_server.auth.login import Login, Unauthenticated
from registry_server.auth.subject import Subject

logger = logging.getLogger(__name__)

SOURCE: Final = "htpasswd"
CONCURRENCY: Final = 2
"""Passwords checked at a time by one worker."""


class Passwords:
    """The users of one htpasswd file."""

    def __init__(self, path: Path, *, concurrency: int = CONCURRENCY) -> None:
        """Raises HtpasswdError for a file that cannot be used."""
        self._path = path
        self._users = Users.load(path)
        self._executor = ThreadPoolExecutor(concurrency, thread_name_prefix="bcrypt")
        self._unusable: Stamp | str | None = None

    async def check(self, user: str, password: bytes) -> Login:
        """Who has this name and password; raises Unauthenticated."""
        users = self._users
        hashed = users.hashes.get(user)
        # A name that does not exist takes as long as one that does, else the time would tell which names exist.
        loop = asyncio.get_running_loop()
        right = await loop.run_in_executor(self._executor, check_password, password, hashed or users.dummy)
        if not right or hashed is None:
            raise Unauthenticated
        return Login(Subject.user(user), hashed=hashed, source=SOURCE)

    def holds(self, login: Login) -> bool:
        """Whether the file still has what a login rests on; true for one that rests on something else."""
        return login.hashed is None or self._users.hashes.get(login.subject.name) == login.hashed

    def fingerprint(self, key: bytes, user: str) -> bytes | None:
        """What tells one password of a user from the next, and without the key nothing; None for no such user."""
        hashed = self._users.hashes.get(user)
        return None if hashed is None else hmac.digest(key, b"password of %b\0%b" % (user.encode(), hashed), "sha256")

    def login(self, user: str) -> Login:
        """A user without a check of the password: whoever calls has better reasons to know who it is."""
        return Login(Subject.user(user), hashed=self._users.hashes[user], source=SOURCE)

    def reload_if_changed(self) -> bool:
        """Read the file again if it is another than before; returns whether the users changed.

        A file that cannot be used changes nothing and is logged once.
        """
        try:
            stamp: Stamp | str = Stamp.of(self._path.stat())
        except OSError as error:
            stamp = str(error)
        if stamp == self._users.stamp:
            self._unusable = None
            return False
        if stamp == self._unusable:
            return False
        try:
            users = Users.load(self._path)
        except HtpasswdError as error:
            self._unusable = stamp
            logger.error("%s; the users read before stay in force", "; ".join(error.faults))  # noqa: TRY400
            return False
        self._users, self._unusable = users, None
        logger.info("%s changed; it has %d user(s) now", self._path, len(users.hashes))
        return True

    def close(self) -> None:
        """End the threads, after what they are at."""
        self._executor.shutdown(cancel_futures=True)
