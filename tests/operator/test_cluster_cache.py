"""The watch cache: whatever order watches, LISTs and answers to writes arrive in, it ends with what is."""

from typing import Any

import hypothesis.strategies as st
from hypothesis import given

from registry_operator.api.kinds import SECRET, SERVICE
from registry_operator.cluster.kubernetes.cache import Cache
from registry_operator.cluster.protocol import Key

KEY = Key(SECRET, "ns", "one")


def secret(version: int, *, name: str = "one", namespace: str = "ns", **labels: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, "resourceVersion": str(version), "labels": labels, "uid": name}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {"version": str(version)}}


def cache() -> Cache:
    return Cache((SECRET, SERVICE), index_label="owner")


class TestOneObject:
    def test_a_newer_state_replaces_an_older_one_and_is_news(self) -> None:
        known = cache()
        assert known.observe(SECRET, secret(1))
        assert known.observe(SECRET, secret(2))
        assert known.get(KEY) == secret(2)

    def test_an_older_state_changes_nothing(self) -> None:
        known = cache()
        known.remember(SECRET, secret(5))
        assert not known.observe(SECRET, secret(4))
        assert known.get(KEY) == secret(5)

    def test_the_echo_of_our_own_write_is_news_once(self) -> None:
        """Its answer may hold somebody else's change of a moment before, which no reconcile has looked at."""
        known = cache()
        known.remember(SECRET, secret(5))
        assert known.observe(SECRET, secret(5))
        assert not known.observe(SECRET, secret(5))

    def test_a_late_answer_to_a_write_does_not_bring_a_deleted_object_back(self) -> None:
        known = cache()
        known.observe(SECRET, secret(5))
        assert known.forget(SECRET, secret(7))
        known.remember(SECRET, secret(6))
        assert known.get(KEY) is None

    def test_an_object_made_anew_under_the_same_name_survives_the_late_deletion_of_the_old_one(self) -> None:
        known = cache()
        known.remember(SECRET, secret(9))
        assert not known.forget(SECRET, secret(7))
        assert known.get(KEY) == secret(9)

    def test_managed_fields_are_not_kept(self) -> None:
        known, manifest = cache(), secret(1)
        manifest["metadata"]["managedFields"] = [{"manager": "regatta"}]
        known.observe(SECRET, manifest)
        assert known.get(KEY) == secret(1)


class TestSelect:
    def test_by_namespace_and_labels(self) -> None:
        known = cache()
        known.observe(SECRET, secret(1, name="a", owner="team", tier="x"))
        known.observe(SECRET, secret(2, name="b", owner="team"))
        known.observe(SECRET, secret(3, name="c", owner="other"))
        known.observe(SECRET, secret(4, name="d", namespace="elsewhere", owner="team"))

        def names(**labels: str) -> list[str]:
            return [item["metadata"]["name"] for item in known.select(SECRET, namespace="ns", labels=labels)]

        assert names() == ["a", "b", "c"]
        assert names(owner="team") == ["a", "b"]
        assert names(owner="team", tier="x") == ["a"]
        assert names(tier="x") == ["a"]
        assert names(owner="nobody") == []
        assert len(known.select(SECRET, labels={"owner": "team"})) == 3
        assert known.select(SERVICE) == []

    def test_the_index_follows_a_change_of_the_label(self) -> None:
        known = cache()
        known.observe(SECRET, secret(1, owner="team"))
        known.observe(SECRET, secret(2, owner="other"))
        assert known.select(SECRET, namespace="ns", labels={"owner": "team"}) == []
        assert known.select(SECRET, namespace="ns", labels={"owner": "other"}) == [secret(2, owner="other")]
        known.forget(SECRET, secret(3, owner="other"))
        for owner in ("team", "other"):
            assert known.select(SECRET, namespace="ns", labels={"owner": owner}) == []


class TestReplace:
    def test_what_the_list_lacks_is_gone(self) -> None:
        """As after a watch that was lost: it never reports what was deleted meanwhile."""
        known = cache()
        known.observe(SECRET, secret(1))
        known.observe(SECRET, secret(2, name="two"))
        missed = known.replace(SECRET, [secret(2, name="two")], version=10)
        assert missed == [secret(1)]
        assert known.select(SECRET) == [secret(2, name="two")]

    def test_it_returns_what_no_watch_had_shown(self) -> None:
        known = cache()
        known.observe(SECRET, secret(1))
        missed = known.replace(SECRET, [secret(3), secret(4, name="two")], version=10)
        assert missed == [secret(3), secret(4, name="two")]

    def test_what_is_younger_than_the_list_stays(self) -> None:
        known = cache()
        known.remember(SECRET, secret(11))
        assert known.replace(SECRET, [], version=10) == []
        assert known.get(KEY) == secret(11)

    def test_a_list_does_not_bring_back_what_was_deleted_after_it(self) -> None:
        known = cache()
        known.observe(SECRET, secret(5))
        known.forget(SECRET, secret(12))
        known.replace(SECRET, [secret(5)], version=10)
        assert known.get(KEY) is None

    def test_the_list_of_one_namespace_leaves_the_others_alone(self) -> None:
        known = cache()
        known.observe(SECRET, secret(1, namespace="elsewhere"))
        known.replace(SECRET, [], version=10, namespace="ns")
        assert known.get(Key(SECRET, "elsewhere", "one")) is not None


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[int | None], list[tuple[str, int]]]:
    """A history of one object (at index n its state after revision n, None for deleted) and late feeds of its past.

    A late feed is the answer to a write, or a LIST, made at some revision and arriving after a later one.
    """
    alive = draw(st.lists(st.booleans(), min_size=1, max_size=12))
    states = [revision if there else None for revision, there in enumerate(alive, start=1)]
    feeds = draw(st.lists(st.tuples(st.sampled_from(["answer", "list"]), st.integers(0, len(states) - 1)), max_size=6))
    return states, feeds


@given(histories(), st.randoms(use_true_random=False))
def test_every_interleaving_of_the_feeds_ends_with_the_newest_state(
    history: tuple[list[int | None], list[tuple[str, int]]], random: Any
) -> None:
    """The watch is in order; answers to writes and LISTs may be late, but by less than one LIST to the next."""
    states, late = history
    known = cache()
    lists = sorted(index for feed, index in late if feed == "list")
    answers = [index for feed, index in late if feed == "answer" and states[index] is not None]
    before: int | None = None
    for index, state in enumerate(states):
        if state is not None:
            known.observe(SECRET, secret(state))
        elif before is not None:
            known.forget(SECRET, secret(index + 1))
        before = state
        for answer in [answer for answer in answers if answer <= index and random.random() < 0.5]:
            known.remember(SECRET, secret(answer + 1))
            answers.remove(answer)
        while lists and lists[0] <= index and random.random() < 0.5:
            at = lists.pop(0)
            # A LIST comes at most once in a while; by then no answer from before the last one is under way.
            answers = [answer for answer in answers if answer >= at]
            found = states[at]
            known.replace(SECRET, [secret(found)] if found is not None else [], version=at + 1)
    for answer in answers:
        known.remember(SECRET, secret(answer + 1))
    last = states[-1]
    assert known.get(KEY) == (secret(last) if last is not None else None)
