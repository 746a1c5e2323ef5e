"""The object store drivers of `storage`, with the keys of distribution v3 (and of v2 where v3 dropped one).

Keys that only tune distribution's insides are in `distribution.py`, with a warning.
"""

import json
import re
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, SecretStr, model_validator

from registry_server.config.scalars import Text
from registry_server.config.section import Bool, FilePath, Int, Secret, Section

MEBIBYTE = 1 << 20


def _document(value: Any) -> Any:
    """The map of a JSON key, as YAML reads it, as the text of one."""
    if not isinstance(value, dict):
        raise ValueError("must be a map: the content of a service account's JSON key")  # noqa: TRY004
    return json.dumps({key: getattr(one, "text", one) for key, one in value.items()})


def _plain_document(document: SecretStr) -> Any:
    return json.loads(document.get_secret_value())


SecretDocument = Annotated[SecretStr, BeforeValidator(_document), PlainSerializer(_plain_document, when_used="json")]


def _bytes(value: Any) -> Any:
    """distribution takes numbers in quotes here."""
    return int(value) if isinstance(value, str) and value.isascii() and value.isdecimal() else value


ChunkSize = Annotated[Int, BeforeValidator(_bytes), Field(ge=5 * MEBIBYTE)]
"""Bytes of a part of a large object. Each upload in progress holds up to four of them in memory."""


class _ObjectStore(Section):
    """What all object stores have."""

    rootdirectory: Text = ""
    chunksize: ChunkSize = 5 * MEBIBYTE


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


def _version_4(value: bool) -> bool:
    if not value:
        raise ValueError("requests are always signed by version 4, the only one S3 accepts for new buckets; remove it")
    return value


def _not_accelerated(value: bool) -> bool:
    if value:
        raise ValueError("transfer acceleration is not implemented; remove it, or name its endpoint in regionendpoint")
    return value


def _no_dual_stack(value: bool) -> bool:
    if value:
        raise ValueError(
            "must be false; for IPv6 set regionendpoint: https://s3.dualstack.REGION.amazonaws.com instead"
        )
    return value


def _no_fips(value: bool) -> bool:
    if value:
        raise ValueError("must be false; set regionendpoint: https://s3-fips.REGION.amazonaws.com instead")
    return value


def _private(value: str) -> str:
    if value != "private":
        raise ValueError("objects are private; give others access by a policy of the bucket, and remove it")
    return value


class S3(_ObjectStore):
    """The s3 driver. Without keys, the credentials are those of the environment, the pod's role or the machine's."""

    bucket: Annotated[Text, Field(min_length=1)]
    region: Text = "us-east-1"
    regionendpoint: Text = ""
    redirectendpoint: Text = ""
    accesskey: Secret = SecretStr("")
    secretkey: Secret = SecretStr("")
    sessiontoken: Secret = SecretStr("")
    secure: Bool = True
    skipverify: Bool = False
    forcepathstyle: Bool = False
    encrypt: Bool = False
    keyid: Text = ""
    storageclass: Annotated[
        Literal[
            "NONE",
            "STANDARD",
            "REDUCED_REDUNDANCY",
            "STANDARD_IA",
            "ONEZONE_IA",
            "INTELLIGENT_TIERING",
            "OUTPOSTS",
            "GLACIER_IR",
        ],
        BeforeValidator(_upper),
    ] = "STANDARD"
    v4auth: Annotated[Bool, AfterValidator(_version_4)] = True
    accelerate: Annotated[Bool, AfterValidator(_not_accelerated)] = False
    usedualstack: Annotated[Bool, AfterValidator(_no_dual_stack)] = False
    usefipsendpoint: Annotated[Bool, AfterValidator(_no_fips)] = False
    objectacl: Annotated[Text, AfterValidator(_private)] = "private"

    @model_validator(mode="after")
    def _whole_credentials(self) -> Self:
        if bool(self.accesskey.get_secret_value()) != bool(self.secretkey.get_secret_value()):
            raise ValueError("accesskey and secretkey belong together; give both, or neither to use the pod's role")
        if self.sessiontoken.get_secret_value() and not self.accesskey.get_secret_value():
            raise ValueError("sessiontoken needs the accesskey and secretkey it was issued with")
        if self.keyid and not self.encrypt:
            raise ValueError("keyid has no effect without encrypt: true; set that, or remove keyid")
        return self


class GCS(_ObjectStore):
    """The gcs driver. Without keyfile and credentials they are the workload identity's or the machine's."""

    bucket: Annotated[Text, Field(min_length=1)]
    keyfile: FilePath | None = None
    credentials: SecretDocument | None = None

    @model_validator(mode="after")
    def _one_credential(self) -> Self:
        if self.keyfile is not None and self.credentials is not None:
            raise ValueError("keyfile and credentials say the same; remove one of them")
        return self


class AzureCredentials(Section):
    """How the azure driver logs in, when not by `accountkey`."""

    type: Literal["client_secret", "shared_key", "default_credentials"]
    clientid: Text = ""
    tenantid: Text = ""
    secret: Secret = SecretStr("")

    @model_validator(mode="after")
    def _whole_secret(self) -> Self:
        if self.type == "client_secret" and not (self.clientid and self.tenantid and self.secret.get_secret_value()):
            raise ValueError("client_secret needs clientid, tenantid and secret")
        return self


_ACCOUNT = re.compile(r"[a-z0-9]{3,24}|devstoreaccount1")


def _account(name: str) -> str:
    if not _ACCOUNT.fullmatch(name):
        raise ValueError("must be the name of a storage account: 3 to 24 lower case letters and digits")
    return name


def _url(url: str) -> str:
    if url and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname):
        raise ValueError("must be a whole URL such as https://account.blob.core.windows.net")
    return url


class Azure(_ObjectStore):
    """The azure driver. Without a key or a signature the credentials are the workload's or the managed identity's.

    `sastoken` is Regatta's own key; distribution takes one in `connectionstring` only.
    """

    accountname: Annotated[Text, AfterValidator(_account)]
    container: Annotated[Text, Field(min_length=1)]
    accountkey: Secret = SecretStr("")
    sastoken: Secret = SecretStr("")
    connectionstring: Secret = SecretStr("")
    credentials: AzureCredentials | None = None
    realm: Text = "core.windows.net"
    serviceurl: Annotated[Text, AfterValidator(_url)] = ""
    skipverify: Bool = False
    trimlegacyrootprefix: Bool = True
    """False for keys that begin with `/`, as distribution 2 wrote them."""

    @model_validator(mode="after")
    def _one_credential(self) -> Self:
        secrets = {name: getattr(self, name) for name in ("accountkey", "sastoken", "connectionstring")}
        given = [name for name, secret in secrets.items() if secret.get_secret_value()]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are two ways to log in; keep one")
        if self.credentials is not None:
            if self.credentials.type == "shared_key" and given != ["accountkey"]:
                raise ValueError("credentials of type shared_key need accountkey")
            if self.credentials.type != "shared_key" and given:
                raise ValueError(f"{given[0]} and credentials are two ways to log in; keep one")
        if not self.trimlegacyrootprefix and not given:
            raise ValueError("keys that begin with / take accountkey, sastoken or connectionstring; give one of them")
        return self
