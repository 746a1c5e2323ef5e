"""What tokens are restricted to: scopes as they are asked for, and claims as they are written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_server.auth.grants import MAX_SCOPES, Grants, TooManyScopes

ALL = {"pull", "push", "delete", "admin"}


@pytest.mark.parametrize(
    ("scopes", "repositories"),
    [
        ([], {}),
        (["repository:team/app:pull"], {"team/app": {"pull"}}),
        (["repository:team/app:pull,push repository:base:pull"], {"team/app": {"pull", "push"}, "base": {"pull"}}),
        (["repository:a:pull", "repository:a:delete"], {"a": {"pull", "delete"}}),
        (["repository:a:*"], {"a": ALL}),
        (["repository(plugin):a:pull"], {"a": {"pull"}}),
        (["repository:a:fly,pull"], {"a": {"pull"}}),
        (["repository:a:"], {"a": set()}),
        (["repository:A/../b:pull", "repository::pull", "repository:pull", "image:a:pull", ":::", "\0"], {}),
    ],
)
def test_scopes(scopes: list[str], repositories: dict[str, set[str]]) -> None:
    assert Grants.of_scopes(scopes).repositories == repositories


@pytest.mark.parametrize(
    ("scope", "catalog"),
    [("registry:catalog:*", True), ("registry:catalog:pull", False), ("registry:other:*", False)],
)
def test_the_scope_of_the_catalog(scope: str, catalog: bool) -> None:
    assert Grants.of_scopes([scope]).catalog is catalog


def test_there_is_a_bound_on_scopes() -> None:
    Grants.of_scopes(["repository:a:pull"] * MAX_SCOPES)
    with pytest.raises(TooManyScopes):
        Grants.of_scopes([" ".join(["repository:a:pull"] * MAX_SCOPES), "repository:a:pull"])


@pytest.mark.parametrize(
    "claim",
    [None, "all", {}, [None], [{}], [{"type": "repository"}], [{"type": "repository", "name": 1, "actions": ["pull"]}],
     [{"type": "repository", "name": "a", "actions": "pull"}], [{"type": [], "name": {}, "actions": [[]]}]],
)  # fmt: skip
def test_a_claim_that_says_nothing_grants_nothing(claim: object) -> None:
    assert Grants.of_claim(claim) == Grants()


@given(st.lists(st.text()), st.recursive(st.none() | st.text() | st.integers(), st.lists))
def test_nothing_whatever_fails_otherwise(scopes: list[str], claim: object) -> None:
    try:
        Grants.of_scopes(scopes)
    except TooManyScopes:
        assert len(" ".join(scopes).split()) > MAX_SCOPES
    Grants.of_claim([{"type": "repository", "name": claim, "actions": claim}])


def test_a_claim_reads_back_as_it_was_written() -> None:
    grants = Grants.of_scopes(["repository:a/b:push,pull repository:c:delete registry:catalog:*"])
    assert Grants.of_claim(grants.claim()) == grants
    assert grants.scope() == "repository:a/b:pull,push repository:c:delete registry:catalog:*"


def test_what_a_policy_leaves_of_it() -> None:
    asked = Grants.of_scopes(["repository:a:pull,push repository:b:pull registry:catalog:*"])
    left = asked.within(lambda name, action: (name, action) == ("a", "pull"), catalog=False)
    assert left.scope() == "repository:a:pull"
