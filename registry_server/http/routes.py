"""From a request's path to its handler, with the repository it is about and what it needs permission for."""

from dataclasses import dataclass
from typing import Final, Literal

from registry_server.config import Action
from registry_server.reference import is_repository
from registry_server.registry.errors import NameInvalid

Resource = Literal[
    "base",
    "catalog",
    "tags",
    "manifest",
    "blob",
    "uploads",
    "upload",
    "referrers",
    "usage",
    "usages",
    "jobs",
    "job",
    "token",
    "healthz",
    "readyz",
]

METHODS: Final[dict[Resource, dict[str, Action]]] = {
    "base": {"GET": "pull", "HEAD": "pull"},
    "catalog": {"GET": "pull", "HEAD": "pull"},
    "tags": {"GET": "pull", "HEAD": "pull"},
    "manifest": {"GET": "pull", "HEAD": "pull", "PUT": "push", "DELETE": "delete"},
    "blob": {"GET": "pull", "HEAD": "pull", "DELETE": "delete"},
    "uploads": {"POST": "push"},
    "upload": {"GET": "push", "HEAD": "push", "PATCH": "push", "PUT": "push", "DELETE": "push"},
    "referrers": {"GET": "pull", "HEAD": "pull"},
    "usage": {"GET": "pull", "HEAD": "pull"},
    "usages": {"GET": "pull", "HEAD": "pull"},
    "jobs": {"GET": "admin", "HEAD": "admin"},
    "job": {"POST": "admin", "DELETE": "admin"},
    "token": {"GET": "pull", "HEAD": "pull", "POST": "pull"},
    "healthz": {"GET": "pull", "HEAD": "pull"},
    "readyz": {"GET": "pull", "HEAD": "pull"},
}
"""What each resource answers to, and the permission it takes on the repository."""

LISTS: Final[frozenset[Resource]] = frozenset({"catalog", "usages"})
"""What tells of all repositories, as far as the asker may see them."""

ADMINISTRATION: Final[frozenset[Resource]] = frozenset({"jobs", "job"})
"""What is about the registry as a whole, and takes its administrator."""

_FIXED: Final[dict[str, Resource]] = {
    "/v2": "base",
    "/v2/": "base",
    "/v2/_catalog": "catalog",
    "/v2/_regatta/usage": "usages",
    "/v2/_regatta/jobs": "jobs",
    "/auth/token": "token",
    "/healthz": "healthz",
    "/readyz": "readyz",
}


@dataclass(frozen=True, slots=True)
class Target:
    """What a path names."""

    resource: Resource
    repository: str = ""
    """Empty for what is about no repository."""
    reference: str = ""
    """A tag, a digest, an upload's id or a job's name, not yet checked."""


def find(path: str) -> Target | None:
    """Where a path leads; None when nothing is there.

    A repository's name may itself contain `blobs` or `tags`, so the path is read from its end. Raises NameInvalid.
    """
    if (fixed := _FIXED.get(path)) is not None:
        return Target(fixed)
    if not path.startswith("/v2/"):
        return None
    rest, _, reference = path.rpartition("/")
    rest, _, collection = rest.rpartition("/")
    if collection == "manifests" and reference:
        return _target("manifest", rest, reference)
    if collection == "uploads" and rest.endswith("/blobs"):
        return _target("upload" if reference else "uploads", rest.removesuffix("/blobs"), reference)
    if collection == "blobs" and reference:
        if reference == "uploads":
            return _target("uploads", rest, "")
        return _target("blob", rest, reference)
    if collection == "tags" and reference == "list":
        return _target("tags", rest, "")
    if collection == "jobs" and rest == "/v2/_regatta" and reference:
        return Target("job", reference=reference)
    if collection == "_regatta" and reference == "usage":
        return _target("usage", rest, "")
    if collection == "referrers" and reference:
        return _target("referrers", rest, reference)
    return None


def _target(resource: Resource, prefix: str, reference: str) -> Target:
    repository = prefix.removeprefix("/v2/")
    if len(prefix) <= len("/v2/") or not is_repository(repository):
        raise NameInvalid(detail={"name": repository[:300]})
    return Target(resource, repository, reference)
