"""What keeps a Registry from being what it shall be, in words that a person can act on."""

from collections.abc import Iterator
from contextlib import contextmanager

from registry_operator.cluster.protocol import Rejected


class Fault(Exception):
    """Something that a person, or time, has to put right. It degrades one Registry and no other.

    `reason` is one word for programs, `message` says what is wrong, where, and what to do. Neither ever holds a secret.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class Faults:
    """The faults of one reconcile, collected so that a person sees all at once."""

    def __init__(self, *first: Fault) -> None:
        self._faults = list(first)

    @contextmanager
    def collected(self) -> Iterator[None]:
        """What is found within is kept, and ends the block alone."""
        try:
            yield
        except Fault as fault:
            self._faults.append(fault)
        except Rejected as error:
            self._faults.append(Fault("Rejected", f"the cluster refused: {error}"))

    def __bool__(self) -> bool:
        return bool(self._faults)

    def as_one(self) -> Fault | None:
        """All of them under the first one's reason; None where there are none."""
        if not self._faults:
            return None
        return Fault(self._faults[0].reason, "; also: ".join(fault.message for fault in self._faults))
