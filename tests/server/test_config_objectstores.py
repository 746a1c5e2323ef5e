"""The object stores of `storage`: distribution's keys, what they mean here, and what is refused with its reason."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from registry_server.cli import _without_secrets
from registry_server.config import ConfigError, Loaded, dump, load
from registry_server.storage.objectstore.connect import _azure_credentials, _s3_address, connect

SECRETS = ("AKIA1", "0123456789", "token-of-s3", "private-key-of-gcs", "key-of-azure", "sig=of-azure", "of-the-app")

S3 = {
    "accesskey": "AKIA1",
    "secretkey": "0123456789",
    "sessiontoken": "token-of-s3",
    "region": "eu-central-1",
    "regionendpoint": "https://minio.example.com:9000",
    "redirectendpoint": "https://public.example.com",
    "forcepathstyle": True,
    "bucket": "images",
    "encrypt": True,
    "keyid": "arn:aws:kms:eu-central-1:1:key/x",
    "secure": True,
    "v4auth": True,
    "chunksize": "10485760",
    "rootdirectory": "/some/prefix",
    "storageclass": "standard_ia",
    "objectacl": "private",
    "accelerate": False,
    "usedualstack": False,
    "usefipsendpoint": False,
    "skipverify": False,
}


def read(folder: Path, storage: dict[str, Any]) -> Loaded:
    path = folder / "config.yml"
    path.write_text(yaml.safe_dump({"version": 0.1, "storage": storage}))
    return load(path, {})


class TestKeys:
    @pytest.mark.parametrize("name", ["s3", "s3aws"])
    def test_every_key_of_s3_is_read(self, tmp_path: Path, name: str) -> None:
        loaded = read(tmp_path, {name: S3, "redirect": {"disable": True}})
        assert loaded.warnings == ()
        settings = loaded.config.storage.s3
        assert settings is not None
        assert settings.secretkey.get_secret_value() == "0123456789"
        assert settings.chunksize == 10 << 20
        assert settings.storageclass == "STANDARD_IA"
        assert loaded.config.storage.redirect.disable
        clients = connect(loaded.config.storage)
        assert clients.signing is None
        assert clients.attributes == {"Storage-Class": "STANDARD_IA"}
        assert not clients.copies
        assert clients.chunk == 10 << 20

    def test_gcs(self, tmp_path: Path) -> None:
        keyfile = tmp_path / "key.json"
        keyfile.write_text("{}")
        document = {"type": "service_account", "private_key": "private-key-of-gcs", "client_id": "1234567"}
        for more in ({"keyfile": str(keyfile)}, {"credentials": document}, {}):
            loaded = read(tmp_path, {"gcs": {"bucket": "images", "rootdirectory": "/x", "chunksize": 5 << 20, **more}})
            assert loaded.warnings == ()
            if credentials := loaded.config.storage.gcs and loaded.config.storage.gcs.credentials:
                assert json.loads(credentials.get_secret_value()) == document

    @pytest.mark.parametrize(
        ("more", "means"),
        [
            ({"accountkey": "key-of-azure"}, {"account_key": "key-of-azure"}),
            ({"accountkey": "k", "credentials": {"type": "shared_key"}}, {"account_key": "k"}),
            ({"sastoken": "?sv=1&sig=of-azure"}, {"sas_key": "sv=1&sig=of-azure"}),
            ({"credentials": {"type": "default_credentials"}}, {}),
            ({}, {}),
            (
                {"credentials": {"type": "client_secret", "clientid": "c", "tenantid": "t", "secret": "of-the-app"}},
                {"client_id": "c", "tenant_id": "t", "client_secret": "of-the-app"},
            ),
            (
                {"connectionstring": "AccountName=a;AccountKey=b==;EndpointSuffix=core.windows.net"},
                {"account_name": "a", "account_key": "b=="},
            ),
        ],
    )
    def test_azure_logs_in_by_what_is_given(self, tmp_path: Path, more: dict[str, Any], means: dict[str, str]) -> None:
        azure = {"accountname": "images", "container": "registry", **more}
        settings = read(tmp_path, {"azure": azure}).config.storage.azure
        assert settings is not None
        assert _azure_credentials(settings) == means

    @pytest.mark.parametrize(
        ("driver", "name", "value"),
        [
            ("s3", "multipartcopychunksize", 33554432),
            ("s3", "multipartcopymaxconcurrency", 100),
            ("s3", "multipartcopythresholdsize", 33554432),
            ("s3", "loglevel", "debug"),
            ("s3", "useragent", "me"),
            ("gcs", "maxconcurrency", 50),
            ("azure", "max_retries", 5),
            ("azure", "copy_status_poll_delay", "100ms"),
        ],
    )
    def test_what_tunes_distribution_is_passed_over_with_a_warning(
        self, tmp_path: Path, driver: str, name: str, value: object
    ) -> None:
        needed = {"accountname": "images", "container": "b"} if driver == "azure" else {"bucket": "b"}
        (warning,) = read(tmp_path, {driver: {**needed, name: value}}).warnings
        assert f"storage.{driver}.{name}: has no effect" in warning


class TestFaults:
    @pytest.mark.parametrize(
        ("storage", "fault"),
        [
            ({"s3": {}}, "storage.s3.bucket: is missing; give the name of the bucket"),
            ({"s3": {"bucket": "b", "v4auth": False}}, "storage.s3.v4auth: requests are always signed by version 4"),
            ({"s3": {"bucket": "b", "accelerate": True}}, "storage.s3.accelerate: transfer acceleration is not"),
            ({"s3": {"bucket": "b", "usedualstack": True}}, "storage.s3.usedualstack: must be false; for IPv6 set"),
            ({"s3": {"bucket": "b", "usefipsendpoint": True}}, "storage.s3.usefipsendpoint: must be false; set"),
            ({"s3": {"bucket": "b", "objectacl": "public-read"}}, "storage.s3.objectacl: objects are private;"),
            ({"s3": {"bucket": "b", "accesskey": "a"}}, "storage.s3: accesskey and secretkey belong together"),
            ({"s3": {"bucket": "b", "sessiontoken": "a"}}, "storage.s3: sessiontoken needs the accesskey"),
            ({"s3": {"bucket": "b", "keyid": "a"}}, "storage.s3: keyid has no effect without encrypt: true"),
            ({"s3": {"bucket": "b", "chunksize": 1 << 20}}, "storage.s3.chunksize: must be at least 5242880"),
            ({"s3": {"bucket": "b", "storageclass": "GLACIER"}}, "storage.s3.storageclass: must be NONE, STANDARD"),
            (
                {"s3": {"bucket": "b", "bukket": "b"}},
                "storage.s3.bukket: is not a setting; did you mean storage.s3.bucket?",
            ),
            ({"gcs": {"bucket": "b", "keyfile": "/none"}}, "storage.gcs.keyfile: /none does not exist; give the path"),
            ({"azure": {"accountname": "a!", "container": "c"}}, "storage.azure.accountname: must be the name of a"),
            (
                {"azure": {"accountname": "abc", "container": "c", "accountkey": "a", "sastoken": "b"}},
                "storage.azure: accountkey and sastoken are two ways to log in; keep one",
            ),
            (
                {"azure": {"accountname": "abc", "container": "c", "trimlegacyrootprefix": False}},
                "storage.azure: keys that begin with / take accountkey, sastoken or connectionstring; give one of",
            ),
            ({"filesystem": {}, "s3": {"bucket": "b"}}, "storage: has 2 drivers, filesystem and s3; keep the one"),
            ({"delete": {"enabled": True}}, "storage: has no driver; add filesystem:"),
        ],
    )
    def test_it_is_named_with_what_to_do(self, tmp_path: Path, storage: dict[str, Any], fault: str) -> None:
        with pytest.raises(ConfigError) as raised:
            read(tmp_path, storage)
        assert [fault in one for one in raised.value.faults] == [True], raised.value.faults


class TestAddresses:
    @pytest.mark.parametrize(
        ("settings", "address"),
        [
            ({}, {"virtual_hosted_style_request": True}),
            ({"forcepathstyle": True}, {"virtual_hosted_style_request": False}),
            ({"bucket": "images.example.com"}, {"virtual_hosted_style_request": False}),
            (
                {"regionendpoint": "s3.example.com"},
                {"endpoint": "https://images.s3.example.com", "virtual_hosted_style_request": True},
            ),
            (
                {"regionendpoint": "http://s3.example.com:9000/", "forcepathstyle": True},
                {"endpoint": "http://s3.example.com:9000", "virtual_hosted_style_request": False},
            ),
            (
                {"regionendpoint": "minio:9000", "secure": False},
                {"endpoint": "http://minio:9000", "virtual_hosted_style_request": False},
            ),
            (
                {"regionendpoint": "http://10.0.0.1:9000"},
                {"endpoint": "http://10.0.0.1:9000", "virtual_hosted_style_request": False},
            ),
        ],
    )
    def test_a_bucket_is_asked_for_by_its_own_name_where_names_work(
        self, tmp_path: Path, settings: dict[str, Any], address: dict[str, Any]
    ) -> None:
        s3 = read(tmp_path, {"s3": {"bucket": "images", **settings}}).config.storage.s3
        assert s3 is not None
        assert _s3_address(s3, s3.regionendpoint) == address


class TestSecrets:
    @pytest.mark.parametrize(
        "storage",
        [
            {"s3": S3},
            {"gcs": {"bucket": "b", "credentials": {"private_key": "private-key-of-gcs"}}},
            {"azure": {"accountname": "abc", "container": "c", "accountkey": "key-of-azure"}},
            {"azure": {"accountname": "abc", "container": "c", "sastoken": "sig=of-azure"}},
        ],
    )
    def test_they_are_written_to_files_and_shown_nowhere_else(self, tmp_path: Path, storage: dict[str, Any]) -> None:
        config = read(tmp_path, storage).config
        for shown in (repr(config), str(config), json.dumps(_without_secrets(config))):
            assert not any(secret in shown for secret in SECRETS)
        written = tmp_path / "written.yml"
        written.write_text(dump(config))
        assert load(written, {}).config == config
