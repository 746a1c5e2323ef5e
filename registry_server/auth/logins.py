"""The logins that a configuration asks for, put together and kept up with the files and issuers they rest on."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, Self

from registry_server.auth.authenticator import Authenticator, TokenIssuer
from registry_server.auth.passwords import Passwords
from registry_server.auth.tokens import Tokens
from registry_server.config import Auth, Config

if TYPE_CHECKING:
    from registry_server.auth.external import ExternalTokens


class _Connected(TokenIssuer, Protocol):
    async def close(self) -> None:
        """Close the connections to whoever is asked."""


@dataclass(frozen=True, slots=True)
class Logins:
    """All that has to do with logins in one worker."""

    authenticator: Authenticator
    tokens: Tokens | None = None
    """What makes tokens of the registry's own; None where nobody has a login here."""
    external: "ExternalTokens | None" = None
    connected: list[_Connected] = field(default_factory=list)

    @classmethod
    def from_config(cls, config: Config, key: bytes) -> Self:
        """`key` signs the registry's own tokens. Raises ConfigError for files that cannot be used."""
        auth = config.auth
        if auth.token is not None:
            from registry_server.auth.external import ExternalTokens

            external = ExternalTokens(auth.token)
            return cls(Authenticator(issuers=[external]), external=external)
        if not auth.issues_tokens:
            return cls(Authenticator())
        passwords = None if auth.htpasswd is None else Passwords(auth.htpasswd.path)
        tokens = Tokens(key, passwords)
        issuers: list[TokenIssuer] = [tokens]
        authenticator = Authenticator(passwords=passwords, issuers=issuers)
        connected = _connected(auth, authenticator)
        issuers += connected
        return cls(authenticator, tokens, connected=connected)

    def reload_if_changed(self) -> None:
        """Follow the files."""
        self.authenticator.reload_if_changed()
        if self.external is not None and self.external.reload_if_changed():
            self.authenticator.forget(self.external.source)

    async def close(self) -> None:
        self.authenticator.close()
        for issuer in self.connected:
            await issuer.close()


def _connected(auth: Auth, authenticator: Authenticator) -> list[_Connected]:
    """Issuers that are asked over the network; what they need is loaded for them alone."""
    issuers: list[_Connected] = []
    if auth.oidc is not None:
        from registry_server.auth.oidc import SOURCE, OpenIDConnect

        issuers.append(OpenIDConnect(auth.oidc, keys_changed=lambda: authenticator.forget(SOURCE)))
    if auth.kubernetes is not None:
        from registry_server.auth.kubernetes import ServiceAccounts

        issuers.append(ServiceAccounts(auth.kubernetes))
    return issuers
