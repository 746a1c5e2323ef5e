"""The registry's own token server, `/auth/token`: by GET with a Basic login, by POST as OAuth2 has it.

Source: distribution's "Token Authentication Specification" and "OAuth2 Token Authentication".
"""

import base64
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs

from registry_server.auth.grants import Grants, TooManyScopes
from registry_server.auth.login import Login, Unauthenticated
from registry_server.auth.tokens import Tokens
from registry_server.http.errors import error_response
from registry_server.http.message import Request, Response
from registry_server.http.security import Security
from registry_server.registry.errors import Denied, Unauthorized

MAX_FORM: Final = 64 << 10
"""Bytes of a form."""

_HEADERS: Final = (("content-type", "application/json"), ("cache-control", "no-store"), ("pragma", "no-cache"))


class _BadRequest(Exception):
    """A request no token is for: OAuth2's name of the error, and what to do."""

    def __init__(self, error: str, description: str) -> None:
        super().__init__(description)
        self.error = error


@dataclass(frozen=True, slots=True)
class TokenEndpoint:
    """Gives tokens to those who have a login, and to nobody where anyone may do something."""

    security: Security
    tokens: Tokens | None
    """None where the registry has no logins of its own."""

    async def answer(self, request: Request) -> Response:
        """Raises Unauthorized, TooManyRequests, Unavailable, Denied."""
        if self.tokens is None:
            raise Denied("this registry issues no tokens; it has no logins of its own")
        try:
            if request.method == "POST":
                return await self._oauth(request, self.tokens)
            return await self._token(request, self.tokens)
        except (_BadRequest, TooManyScopes) as error:
            return _refusal(400, getattr(error, "error", "invalid_scope"), str(error))

    async def _token(self, request: Request, tokens: Tokens) -> Response:
        login = await self.security.authenticate(request)
        query = request.query
        answer, _ = self._issue(tokens, login, request.query_all("scope"))
        if query.get("offline_token") == "true" and (refresh := tokens.issue_refresh(login)):
            answer["refresh_token"] = refresh
        return _answer(answer)

    async def _oauth(self, request: Request, tokens: Tokens) -> Response:
        form = await _form(request)
        for name in ("grant_type", "service", "client_id"):
            if not form.get(name):
                raise _BadRequest("invalid_request", f"{name} is missing")
        try:
            login, refresh = await self._granted(request, form, tokens)
        except Unauthorized as error:
            # Docker reads the registry's form of an error, others OAuth2's.
            response = error_response(error)
            assert isinstance(response.body, bytes)  # noqa: S101  (errors are)
            body = {"error": "invalid_grant", "error_description": str(error), **json.loads(response.body)}
            return Response(401, list(_HEADERS), json.dumps(body).encode())
        answer, granted = self._issue(tokens, login, [form["scope"]] if "scope" in form else [])
        if granted is not None:
            answer["scope"] = granted.scope()
        if refresh is not None:
            answer["refresh_token"] = refresh
        return _answer(answer)

    async def _granted(self, request: Request, form: Mapping[str, str], tokens: Tokens) -> tuple[Login, str | None]:
        """Who asks, and the refresh token for next time. Raises Unauthorized, TooManyRequests, Unavailable."""
        match form["grant_type"]:
            case "password":
                credentials = f"{form.get('username', '')}:{form.get('password', '')}".encode(errors="surrogateescape")
                login = await self.security.check(request, f"Basic {base64.b64encode(credentials).decode()}")
                return login, tokens.issue_refresh(login) if form.get("access_type") == "offline" else None
            case "refresh_token":
                given = form.get("refresh_token", "")
                try:
                    return tokens.refreshed(given), given
                except Unauthenticated as error:
                    self.security.failed("token")
                    raise Unauthorized("the refresh token is not valid, or no longer; log in again") from error
            case _:
                raise _BadRequest("unsupported_grant_type", "grant_type must be password or refresh_token")

    def _issue(self, tokens: Tokens, login: Login, scopes: list[str]) -> tuple[dict[str, Any], Grants | None]:
        """The fields of an answer, and what of the scopes policies grant now. Raises TooManyScopes."""
        # Whoever asks for nothing in particular gets a token for all they may do, as for Docker's login.
        asked = Grants.of_scopes(scopes) if scopes else login.grants
        if asked is not None and login.grants is not None:
            asked = asked.within(login.grants.allows, catalog=login.grants.catalog)
        token = tokens.issue(login, asked)
        answer = {
            "token": token.text,
            "access_token": token.text,
            "expires_in": token.expires - token.issued,
            "issued_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(token.issued)),
        }
        if asked is None:
            return answer, None
        policy, subject = self.security.policy, login.subject
        granted = asked.within(
            lambda name, action: policy.allows(subject, name, action), catalog=policy.may_list(subject)
        )
        return answer, granted


async def _form(request: Request) -> dict[str, str]:
    """The first value of each field. Raises _BadRequest."""
    media_type = (request.headers.get("content-type") or "").partition(";")[0].strip().lower()
    if media_type != "application/x-www-form-urlencoded":
        raise _BadRequest("invalid_request", "send a form, application/x-www-form-urlencoded")
    pieces: list[bytes] = []
    size = 0
    async for piece in request.body:
        size += len(piece)
        if size > MAX_FORM:
            raise _BadRequest("invalid_request", f"the form has more than {MAX_FORM} bytes")
        pieces.append(piece)
    try:
        fields = parse_qs(b"".join(pieces).decode(), keep_blank_values=True, max_num_fields=100)
    except ValueError:
        raise _BadRequest("invalid_request", "the form can't be read") from None
    return {name: values[0] for name, values in fields.items()}


def _answer(fields: Mapping[str, Any]) -> Response:
    return Response(200, list(_HEADERS), json.dumps(fields).encode())


def _refusal(status: int, error: str, description: str) -> Response:
    body = {
        "error": error,
        "error_description": description,
        "errors": [{"code": "UNSUPPORTED", "message": description}],
    }
    return Response(status, list(_HEADERS), json.dumps(body).encode())
