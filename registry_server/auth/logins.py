"""The logins that a configuration asks for, put together and kept up with the files and issuers they rest on."""

from dataclasses import dataclass
from typing import Self

from registry_server.auth.authenticator import Authenticator, TokenIssuer
from registry_server.auth.external import SOURCE as EXTERNAL
from registry_server.auth.external import ExternalTokens
from registry_server.auth.passwords import Passwords
from registry_server.auth.tokens import Tokens
from registry_server.config import Config


@dataclass(frozen=True, slots=True)
class Logins:
    """All that has to do with logins in one worker."""

    authenticator: Authenticator
    tokens: Tokens | None
    """What makes tokens of the registry's own; None where nobody has a login here."""
    external: ExternalTokens | None = None

    @classmethod
    def from_config(cls, config: Config, key: bytes) -> Self:
        """`key` signs the registry's own tokens. Raises ConfigError for files that cannot be used."""
        auth = config.auth
        if auth.token is not None:
            external = ExternalTokens(auth.token)
            return cls(Authenticator(issuers=[external]), None, external)
        passwords = None if auth.htpasswd is None else Passwords(auth.htpasswd.path)
        tokens = Tokens(key, passwords) if auth.issues_tokens else None
        issuers: list[TokenIssuer] = [] if tokens is None else [tokens]
        return cls(Authenticator(passwords=passwords, issuers=issuers), tokens)

    def reload_if_changed(self) -> None:
        """Follow the files."""
        self.authenticator.reload_if_changed()
        if self.external is not None and self.external.reload_if_changed():
            self.authenticator.forget(EXTERNAL)

    def close(self) -> None:
        self.authenticator.close()
