"""What refers to what within a repository."""

from collections.abc import Collection, Iterable, Mapping
from graphlib import TopologicalSorter

from registry_server.metadata.contract import LinkedManifest
from registry_server.reference import Digest


def named(manifests: Iterable[LinkedManifest]) -> set[Digest]:
    """The contents of manifests, and what is in them, by the digests that they use."""
    return {digest for one in manifests for digest in (one.content, *one.blobs)}


def by_content(blobs: Mapping[Digest, Digest]) -> Mapping[Digest, Collection[Digest]]:
    """The names of each content."""
    names: dict[Digest, list[Digest]] = {}
    for name, content in blobs.items():
        names.setdefault(content, []).append(name)
    return names


def reachable(roots: Iterable[Digest], references: Mapping[Digest, LinkedManifest]) -> set[Digest]:
    """The manifests that one comes to from some: by what an index lists, and by what refers to a subject."""
    referrers: dict[Digest, list[Digest]] = {}
    for digest, manifest in references.items():
        if manifest.subject is not None:
            referrers.setdefault(manifest.subject, []).append(digest)
    found: set[Digest] = set()
    left = list(roots)
    while left:
        digest = left.pop()
        if digest in references and digest not in found:
            found.add(digest)
            left += [*references[digest].manifests, *referrers.get(digest, ())]
    return found


def leading_to(targets: Iterable[Digest], references: Mapping[Digest, LinkedManifest]) -> set[Digest]:
    """The targets, and the indexes that list them."""
    parents: dict[Digest, list[Digest]] = {}
    for digest, manifest in references.items():
        for child in manifest.manifests:
            parents.setdefault(child, []).append(digest)
    found: set[Digest] = set()
    left = list(targets)
    while left:
        digest = left.pop()
        if digest not in found:
            found.add(digest)
            left += parents.get(digest, ())
    return found


def sources_first(references: Mapping[Digest, LinkedManifest]) -> list[Digest]:
    """An index before what it lists, and a subject before what refers to it."""
    before: dict[Digest, set[Digest]] = {digest: set() for digest in references}
    for digest, manifest in references.items():
        for child in manifest.manifests:
            if child in before:
                before[child].add(digest)
        if manifest.subject in before:
            before[digest].add(manifest.subject)
    return list(TopologicalSorter(before).static_order())
