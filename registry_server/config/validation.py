"""Which manifests may be pushed: distribution's `validation`, beside Regatta's own `manifests`."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator

from registry_server.config.patterns import InvalidPattern, Patterns
from registry_server.config.scalars import Text
from registry_server.config.section import Bool, Section


def _pattern(pattern: str) -> str:
    try:
        Patterns((pattern,))
    except InvalidPattern as error:
        raise ValueError(f"{pattern} is no regular expression: {error}; write it in the syntax of RE2") from None
    return pattern


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


Pattern = Annotated[Text, AfterValidator(_pattern)]


class URLs(Section):
    """Where layers may be said to be: where an expression of `allow` matches, if there is one, and none of `deny`."""

    allow: tuple[Pattern, ...] = ()
    deny: tuple[Pattern, ...] = ()


class Platform(Section):
    """A platform of images that an index lists."""

    architecture: Text = ""
    os: Text = ""


class Indexes(Section):
    """Which images of an index must be there when it is pushed: all, none, or those for the platforms of the list."""

    platforms: Annotated[Literal["all", "none", "list"] | None, BeforeValidator(_lower)] = None
    platformlist: tuple[Platform, ...] = ()


class ManifestRules(Section):
    """What is asked of manifests."""

    urls: URLs = URLs()
    indexes: Indexes = Indexes()


class Validation(Section):
    """Rules for what is pushed; `disabled` without `enabled` puts them out of force."""

    enabled: Bool = False
    disabled: Bool = False
    manifests: ManifestRules = ManifestRules()

    @property
    def rules(self) -> ManifestRules:
        """What is in force."""
        return self.manifests if self.enabled or not self.disabled else ManifestRules()
