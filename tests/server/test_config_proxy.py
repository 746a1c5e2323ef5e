"""`proxy` in the configuration: distribution's keys as they are, ours beside them, and what is wrong in words."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from registry_server.cli import main
from registry_server.config import Config, ConfigError, dump, load
from registry_server.config.proxy import Proxy

BASE = "version: 0.1\nstorage: {filesystem: {rootdirectory: %s}}\n"


def read(folder: Path, text: str, environ: dict[str, str] | None = None) -> Config:
    path = folder / "config.yml"
    path.write_text(BASE % (folder / "data") + text)
    return load(path, environ or {}).config


def test_distribution_s_keys_work(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        "proxy: {remoteurl: https://registry-1.docker.io, username: me, password: 0123, ttl: 24h}",
    )
    assert config.proxy.remoteurl == "https://registry-1.docker.io"
    assert config.proxy.password.get_secret_value() == "0123", "digits keep their zeros"
    assert config.proxy.ttl == timedelta(hours=24)
    helper = read(tmp_path, "proxy: {remoteurl: https://a, exec: {command: helper, lifetime: 1h}}").proxy.exec
    assert helper is not None
    assert (helper.command, helper.lifetime) == ("helper", timedelta(hours=1))


def test_its_defaults_are_distribution_s(tmp_path: Path) -> None:
    proxy = read(tmp_path, "proxy: {remoteurl: https://a}").proxy
    assert (proxy.ttl, proxy.freshfor) == (timedelta(hours=168), timedelta(0))
    assert read(tmp_path, "").proxy.remotes == {}


def test_variables_of_the_environment_set_it(tmp_path: Path) -> None:
    environ = {
        "REGISTRY_PROXY_REMOTEURL": "https://registry-1.docker.io",
        "REGISTRY_PROXY_USERNAME": "me",
        "REGISTRY_PROXY_PASSWORD": "secret",
        "REGISTRY_PROXY_UPSTREAMS_0": "{prefix: quay, remoteurl: https://quay.io}",
        "REGISTRY_PROXY_UPSTREAMS_0_USERNAME": "robot",
        "REGISTRY_PROXY_UPSTREAMS_0_PASSWORD": "secret",
    }
    remotes = read(tmp_path, "", environ).proxy.remotes
    assert {prefix: (one.host, one.username) for prefix, one in remotes.items()} == {
        "": ("registry-1.docker.io", "me"),
        "quay": ("quay.io", "robot"),
    }


def test_names_that_containerd_asks_for(tmp_path: Path) -> None:
    text = """
proxy:
  remoteurl: https://registry-1.docker.io
  upstreams:
    - {prefix: quay, remoteurl: "https://quay.io", ns: [Mirror.Example]}
    - {prefix: other/quay, remoteurl: "https://quay.io/", ns: ["host:5000"]}
"""
    assert read(tmp_path, text).proxy.namespaces == {
        "docker.io": "",
        "index.docker.io": "",
        "registry-1.docker.io": "",
        "quay.io": "quay",
        "mirror.example": "quay",
        "host:5000": "other/quay",
    }


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{remoteurl: docker.io}", "3: proxy.remoteurl: must be a whole URL such as https://registry-1.docker.io"),
        ("{remoteurl: 'https://a:b'}", "3: proxy.remoteurl: must be a whole URL such as https://registry-1.docker.io"),
        ("{remoteurl: 'https://me:pw@a'}", "3: proxy.remoteurl: must not hold a login; use username and password"),
        ("{remoteurl: 'https://a/v2/'}", "3: proxy.remoteurl: must be a registry's own address, without /v2/"),
        ("{username: me, password: pw}", "3: proxy: has a login and no remoteurl to use it at"),
        ("{remoteurl: https://a, username: me}", "3: proxy: needs both username and password, or neither"),
        ("{remoteurl: https://a, username: me, password: x, exec: {command: y}}", "3: proxy: has a login and exec"),
        ("{remoteurl: https://a, exec: {}}", "3: proxy.exec.command: is missing; add it"),
        ("{remoteurl: https://a, ttl: 5}", "3: proxy.ttl: 5 is 5 nanoseconds; give a unit"),
        ("{remoteurl: https://a, ttls: 5h}", "3: proxy.ttls: is not a setting; did you mean proxy.ttl?"),
        ("{remoteurl: https://a, ca: /no/such/file}", "3: proxy.ca: /no/such/file does not exist; give the path of"),
        ("{upstreams: [{remoteurl: https://a}]}", "3: proxy.upstreams[0].prefix: is missing; add it"),
        ("{upstreams: [{prefix: a}]}", "3: proxy.upstreams[0].remoteurl: is missing; add it"),
        ("{upstreams: [{prefix: /a/, remoteurl: https://a}]}", "3: proxy.upstreams[0].prefix: must be the beginning"),
        (
            "{upstreams: [{prefix: a, remoteurl: https://a}, {prefix: a, remoteurl: https://b}]}",
            "3: proxy: two upstreams have the prefix a; give each its own",
        ),
        (
            "{remoteurl: https://b, ns: [x], upstreams: [{prefix: a, remoteurl: https://a, ns: [X]}]}",
            "3: proxy: two upstreams have the ns x; only one can be asked for it",
        ),
        ("{remoteurl: https://a, ns: [https://docker.io]}", "3: proxy.ns[0]: must be a registry's name as image"),
        ("{remoteurl: https://a, timeouts: {idle: 0s}}", "3: proxy.timeouts.idle: must be longer than 0s"),
    ],
)
def test_what_is_wrong_is_said_in_words(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, f"proxy: {text}")
    (said,) = raised.value.faults
    assert said.startswith(f"{tmp_path}/config.yml:{fault}")


def test_a_login_over_plain_http_is_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    path.write_text(BASE % tmp_path + "proxy: {remoteurl: http://a, username: me, password: pw}")
    (warning,) = load(path, {}).warnings
    assert warning.startswith(f"{path}:3: proxy: the login is readable on the way")


def test_a_file_that_is_written_is_read_as_the_same(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        "proxy: {remoteurl: https://a, username: me, password: pw, upstreams: [{prefix: b, remoteurl: https://b}]}",
    )
    (tmp_path / "written.yml").write_text(dump(config))
    assert load(tmp_path / "written.yml", {}).config == config


def test_the_check_shows_the_upstreams_and_no_secret(tmp_path: Path) -> None:
    login = "username: me, password: s3cret"
    read(
        tmp_path,
        f"proxy: {{remoteurl: https://a, {login}, upstreams: [{{prefix: b, remoteurl: https://b, {login}}}]}}",
    )
    said = CliRunner().invoke(main, ["config", "check", str(tmp_path / "config.yml")]).output
    assert "all other repositories from https://a as me" in said
    assert "b/** from https://b as me" in said
    shown = CliRunner().invoke(main, ["config", "check", str(tmp_path / "config.yml"), "--format", "json"]).output
    proxy = json.loads(shown)["config"]["proxy"]
    assert (proxy["password"], proxy["upstreams"][0]["password"]) == ("***", "***")
    assert "s3cret" not in said + shown


def test_a_ca_that_is_none_is_found_before_serving(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    read(tmp_path, f"proxy: {{remoteurl: https://a, ca: {tmp_path / 'ca.pem'}}}")
    outcome = CliRunner().invoke(main, ["serve", str(tmp_path / "config.yml")])
    assert outcome.exit_code == 2
    assert f"ca {tmp_path / 'ca.pem'} of a: is no PEM file of certificates" in outcome.output


def test_the_sample_says_the_defaults(tmp_path: Path) -> None:
    """Each line that is commented out changes nothing, and no setting is missing."""
    sample = Path(__file__).parents[2] / "docs" / "samples" / "pull-through.yml"
    lines = [line.removeprefix("  # ") for line in sample.read_text().splitlines() if line.startswith("  # ")]
    settings = yaml.safe_load("\n".join(lines)) | {"exec": None}
    default = Proxy().model_dump(mode="json")
    shown = {**default, **settings}
    assert {*settings, "remoteurl", "upstreams"} == set(Proxy.model_fields)
    for free in ("ca", "spool"):  # there is no default to show
        shown[free] = default[free]
    assert Proxy.model_validate(shown) == Proxy()
    assert load(sample, {}).config.proxy.namespaces["quay.io"] == "quay.io"
