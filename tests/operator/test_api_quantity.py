"""Quantities as Kubernetes writes them."""

import pytest

from registry_operator.api.quantity import amount


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1000m", "1"),
        ("1", 1),
        ("0.5", "500m"),
        ("1Gi", "1024Mi"),
        ("1k", "1e3"),
        ("1E3", "1000"),
        ("2E", "2e18"),
        ("-1", -1),
    ],
)
def test_these_are_the_same(one: str | int, other: str | int) -> None:
    """However they are written."""
    assert amount(one) == amount(other)


@pytest.mark.parametrize(("less", "more"), [("1G", "1Gi"), ("999m", "1"), ("9Gi", "10Gi")])
def test_these_are_in_order(less: str, more: str) -> None:
    """As numbers, not as text."""
    assert amount(less) < amount(more)


@pytest.mark.parametrize("text", ["", "Gi", "1 Gi", "1gi", "ten", "1Gi5", "0x10"])
def test_these_are_none(text: str) -> None:
    """They raise an error that names them."""
    with pytest.raises(ValueError, match="is not a quantity"):
        amount(text)
