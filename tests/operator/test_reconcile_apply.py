"""When a child is written: the skip rule, on manifests alone."""

from typing import Any

import pytest

from registry_operator.api.names import DESIRED_HASH
from registry_operator.reconcile.apply import is_current

Json = dict[str, Any]


def child(**members: Any) -> Json:
    """A desired child, with the hash of what was desired last."""
    return {"metadata": {"name": "team", "annotations": {DESIRED_HASH: "1"}}, **members}


SAME: dict[str, tuple[Any, Any]] = {
    "defaults of the API server": ({"a": 1}, {"a": 1, "b": 2}),
    "an empty object that was dropped": ({"a": {}}, {}),
    "an empty list that was dropped": ({"a": []}, {}),
    "an empty object that was filled in": ({"emptyDir": {}}, {"emptyDir": {"medium": ""}}),
    "quantities in other words": (
        {"limits": {"cpu": "1000m", "memory": "1Gi"}},
        {"limits": {"cpu": 1, "memory": "1024Mi"}},
    ),
    "a size in other words": ({"emptyDir": {"sizeLimit": "1024Mi"}}, {"emptyDir": {"sizeLimit": "1Gi"}}),
    "an empty selector that was dropped": ({"podSelector": {}}, {}),
    "a container of somebody else": (
        {"containers": [{"name": "registry", "image": "a"}]},
        {"containers": [{"name": "mesh"}, {"name": "registry", "image": "a", "stdin": False}]},
    ),
    "a port's default": (
        {"ports": [{"name": "https", "port": 5000}]},
        {"ports": [{"name": "https", "port": 5000, "nodePort": 30500}]},
    ),
    "items of a list that is one value": (
        {"tolerations": [{"key": "a"}]},
        {"tolerations": [{"key": "a", "effect": ""}]},
    ),
}

DIFFERENT: dict[str, tuple[Any, Any]] = {
    "another value": ({"a": 1}, {"a": 2}),
    "a missing value": ({"a": 1}, {}),
    "a value of another type": ({"a": {"b": 1}}, {"a": "b"}),
    "another quantity": ({"requests": {"storage": "2Gi"}}, {"requests": {"storage": "2G"}}),
    "a missing quantity": ({"requests": {"storage": "2Gi"}}, {"requests": {}}),
    "quantities that are gone": ({"requests": {"storage": "2Gi"}}, {}),
    "no quantity at all": ({"limits": {"cpu": "1"}}, {"limits": {"cpu": "much"}}),
    "another container": ({"containers": [{"name": "a"}]}, {"containers": [{"name": "b"}]}),
    "one item more": ({"args": ["a"]}, {"args": ["a", "b"]}),
    "one item less": ({"args": ["a", "b"]}, {"args": ["a"]}),
    "a label more to select by": ({"selector": {"a": "1"}}, {"selector": {"a": "1", "b": "2"}}),
    "another order": ({"args": ["a", "b"]}, {"args": ["b", "a"]}),
    "false where nothing is": ({"a": False}, {}),
}


@pytest.mark.parametrize("case", SAME)
def test_this_needs_no_write(case: str) -> None:
    """All that is desired is there."""
    desired, live = SAME[case]
    assert is_current(child(spec=desired), child(spec=live))


@pytest.mark.parametrize("case", DIFFERENT)
def test_this_needs_a_write(case: str) -> None:
    """Something drifted."""
    desired, live = DIFFERENT[case]
    assert not is_current(child(spec=desired), child(spec=live))


def test_another_hash_needs_a_write() -> None:
    """Something that was desired once is desired no more, and may still be there."""
    live = child(spec={"a": 1})
    live["metadata"]["annotations"] = {DESIRED_HASH: "2"}
    assert not is_current(child(spec={"a": 1}), live)
    del live["metadata"]["annotations"]
    assert not is_current(child(spec={"a": 1}), live)
