"""Regular expressions of the configuration over texts of clients.

Those of distribution's users are written for Go's RE2, such as `^https?://([^/]+\\.)*example\\.com/`, on which Python's
engine would take ages when a client chose the URL for it. Rust's, which pydantic brings along, has RE2's syntax and its
linear time.
"""

from collections.abc import Sequence

from pydantic_core import SchemaError, SchemaValidator, core_schema


class InvalidPattern(ValueError):
    """A text that is no regular expression; the message says why."""


class Patterns:
    """Several expressions, of which one that is found anywhere in a text is enough."""

    def __init__(self, patterns: Sequence[str]) -> None:
        """Raises InvalidPattern."""
        either = "|".join(f"(?:{pattern})" for pattern in patterns)
        try:
            self._schema = SchemaValidator(core_schema.str_schema(pattern=either, regex_engine="rust-regex"))
        except SchemaError as error:
            raise InvalidPattern(str(error).strip().rpartition("error: ")[2]) from None

    def found_in(self, text: str) -> bool:
        return self._schema.isinstance_python(text)
