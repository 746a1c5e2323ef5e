"""Names and labels of children: valid for Kubernetes, and never shared."""

import re

from hypothesis import example, given
from hypothesis import strategies as st

from registry_operator.api.names import child_labels, child_name, label_value

SUFFIXES = ["", "-config", "-admin", "-tls", "-ca", "-data"]

LABEL = r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?"
names = st.from_regex(rf"{LABEL}(\.{LABEL}){{0,12}}", fullmatch=True).filter(lambda name: len(name) <= 253)
"""Names that the API server takes for a Registry."""


@given(names, st.sampled_from(SUFFIXES))
@example("a" * 253, "-config")
@example("a" * 56, "-config")
@example("a" * 57, "-config")
@example("1.2.3", "")
def test_a_childs_name_does_for_a_service(name: str, suffix: str) -> None:
    """RFC 1035, the narrowest form there is; the ending stays readable."""
    child = child_name(name, suffix)
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", child)
    assert child.endswith(suffix)


suffixes_of_a_kind = st.sampled_from([[""], ["-data"], ["-config", "-admin", "-tls", "-ca"]])


@given(names, names, suffixes_of_a_kind)
@example("a" * 100 + "b", "a" * 100 + "c", ["-tls"])
@example("a.b", "a-b", [""])
@example("1a", "r-1a", [""])
@example("a", "a-tls", ["-tls", "-ca"])
def test_no_two_children_of_a_kind_share_a_name(one: str, other: str, suffixes: list[str]) -> None:
    """Neither those of one Registry, nor those of two whose names differ at the end or in a dot."""
    children = [child_name(name, suffix) for name in {one, other} for suffix in suffixes]
    assert len(set(children)) == len(children)


@given(names)
def test_a_short_plain_name_stays_as_it_is(name: str) -> None:
    """People find the children of `team` by `team-`."""
    if re.fullmatch(r"[a-z][a-z0-9-]{0,50}", name):
        assert [child_name(name, suffix) for suffix in SUFFIXES] == [name + suffix for suffix in SUFFIXES]


@given(names)
@example("a" * 62 + ".b")
def test_labels_are_labels(name: str) -> None:
    """At most 63 characters, with a letter or digit at both ends."""
    for value in child_labels(name).values():
        assert re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", value)


@given(names, names)
@example("a" * 100 + "b", "a" * 100 + "c")
def test_no_two_registries_share_a_label(one: str, other: str) -> None:
    """Else one's Service would reach the other's pods."""
    assert (label_value(one) == label_value(other)) == (one == other)
