"""Overrides from the environment: distribution's rules, checked against the reading of its parser."""

import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry_server.config import Address, ConfigError, Loaded, load

BASE = "version: 0.1\nstorage: {filesystem: {rootdirectory: /srv/registry}}\n"


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "config.yml"
    path.write_text(BASE)
    return path


def with_environment(path: Path, environ: dict[str, str], text: str | None = None) -> Loaded:
    if text is not None:
        path.write_text(text)
    return load(path, environ)


def test_a_variable_overrides_the_file(config_file: Path) -> None:
    loaded = with_environment(config_file, {"REGISTRY_HTTP_ADDR": "localhost:443"}, f'{BASE}http: {{addr: ":80"}}\n')
    assert loaded.config.http.addr == Address("localhost", 443)
    assert loaded.warnings == ()


def test_blocks_the_file_lacks_are_made(config_file: Path) -> None:
    environ = {
        "REGISTRY_HTTP_DEBUG_ADDR": ":5001",
        "REGISTRY_HTTP_DEBUG_PROMETHEUS_ENABLED": "true",
        "REGISTRY_HTTP_HEADERS_X-FRAME-OPTIONS": "[deny]",
    }
    http = with_environment(config_file, environ).config.http
    assert http.debug is not None
    assert http.debug.addr == Address("", 5001)
    assert http.debug.prometheus.enabled
    assert http.headers == {"x-frame-options": ("deny",)}


def test_a_variable_may_hold_a_whole_block(config_file: Path) -> None:
    environ = {"REGISTRY_ACCESS": "{policies: [{subjects: [anonymous], repositories: ['**'], role: reader}]}"}
    access = with_environment(config_file, environ).config.access
    assert access is not None
    assert access.policies[0].role == "reader"


def test_the_more_specific_variable_counts(config_file: Path) -> None:
    environ = {"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": "/other", "REGISTRY_STORAGE": "filesystem"}
    text = "version: 0.1\nstorage: inmemory\n"
    assert with_environment(config_file, environ, text).config.storage.filesystem.rootdirectory == Path("/other")


def test_the_keys_of_the_file_are_found_in_any_case(config_file: Path) -> None:
    text = f"{BASE}http: {{headers: {{X-Frame-Options: [deny]}}}}\n"
    loaded = with_environment(config_file, {"REGISTRY_HTTP_HEADERS_X-FRAME-OPTIONS": "[sameorigin]"}, text)
    assert loaded.config.http.headers == {"X-Frame-Options": ("sameorigin",)}


def test_elements_of_lists_are_numbered(config_file: Path) -> None:
    policy = "{subjects: [anonymous], repositories: ['**'], role: %s}"
    environ = {
        "REGISTRY_ACCESS_POLICIES_0": policy % "reader",
        "REGISTRY_ACCESS_POLICIES_1": policy % "reader",
        "REGISTRY_ACCESS_POLICIES_1_ROLE": "writer",
    }
    access = with_environment(config_file, environ).config.access
    assert access is not None
    assert [one.role for one in access.policies] == ["reader", "writer"]


def test_nothing_resets_to_the_default(config_file: Path) -> None:
    loaded = with_environment(config_file, {"REGISTRY_HTTP_PREFIX": ""}, f"{BASE}http: {{prefix: /x/}}\n")
    assert loaded.config.http.prefix == ""


def test_a_password_of_digits_stays_what_it_is(config_file: Path) -> None:
    loaded = with_environment(config_file, {"REGISTRY_HTTP_SECRET": "0012"})
    assert loaded.config.http.secret.get_secret_value() == "0012"


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("REGISTRY_HTTP_ADR", ":80", "http.adr: is not a setting; did you mean http.addr?"),
        ("REGISTRY_LOGGING_LEVEL", "debug", "logging: is not a setting; remove it or use one of: access,"),
        ("REGISTRY_HTTP_PORT", "5000", "http.port: is not a setting; remove it or use one of: addr,"),
        ("REGISTRY_LOG_LEVEL", "loud", "log.level: must be error, warn, info or debug"),
        ("REGISTRY_LOG_LEVEL_X", "debug", "log.level is a single value; nothing can be set within it"),
        (
            "REGISTRY_STORAGE_INMEMORY_X",
            "x",
            "storage.inmemory: is a setting of distribution's that Regatta does not implement",
        ),
        ("REGISTRY_ACCESS_POLICIES_7", "x", "access.policies is a list of 1; number its elements from 0 to 1"),
        ("REGISTRY_HTTP_SECRET", "{x", "is not valid YAML: did not find expected"),
    ],
)
def test_a_fault_names_its_variable(config_file: Path, name: str, value: str, fault: str) -> None:
    policies = "access: {policies: [{subjects: [anonymous], repositories: ['**'], role: reader}]}\nlog: {level: info}\n"
    with pytest.raises(ConfigError) as raised:
        with_environment(config_file, {name: value}, BASE + policies)
    assert raised.value.faults[0].startswith(f"environment variable {name}: {fault}")
    assert len(raised.value.faults) == 1


def test_what_kubernetes_injects_for_services_is_passed_over(config_file: Path) -> None:
    environ = {
        "REGISTRY_SERVICE_HOST": "10.0.0.1",
        "REGISTRY_SERVICE_PORT": "5000",
        "REGISTRY_SERVICE_PORT_HTTPS": "5000",
        "REGISTRY_PORT": "tcp://10.0.0.1:5000",
        "REGISTRY_PORT_5000_TCP": "tcp://10.0.0.1:5000",
        "REGISTRY_PORT_5000_TCP_PROTO": "tcp",
        "REGISTRY_PORT_5000_TCP_PORT": "5000",
        "REGISTRY_PORT_5000_TCP_ADDR": "10.0.0.1",
        "REGISTRY_HTTP_SERVICE_HOST": "10.0.0.2",
        "REGISTRY_HTTP_PORT": "tcp://10.0.0.2:80",
        "REGISTRY_MY_TEAM_PORT_80_TCP_ADDR": "10.0.0.3",
        "REGISTRY_CONFIGURATION_PATH": "/etc/config.yml",
        "PATH": "/bin",
    }
    loaded = with_environment(config_file, environ)
    assert loaded == load(config_file, {})
    assert loaded.warnings == ()


@pytest.mark.parametrize("name", ["REGISTRY_AUTH_FILE", "REGISTRY_VERSION"])
def test_variables_of_other_tools_are_ignored_with_a_warning(config_file: Path, name: str) -> None:
    loaded = with_environment(config_file, {name: "2"})
    assert loaded.config == load(config_file, {}).config
    assert len(loaded.warnings) == 1
    assert loaded.warnings[0].startswith(f"environment variable {name}: is ignored")


words = st.sampled_from(
    ["HTTP", "STORAGE", "ACCESS", "POLICIES", "0", "1", "TLS", "FILESYSTEM", "LOG", "FIELDS", "CACHE", "", "X"]
)
variables = st.lists(words, min_size=1, max_size=5).map(lambda parts: f"REGISTRY_{'_'.join(parts)}")
values = st.text(string.printable) | st.sampled_from(["{}", "[]", "1", "[{}]", "null"])


@settings(deadline=None)
@given(st.dictionaries(variables, values, max_size=4))
def test_no_environment_whatever_fails_otherwise(
    tmp_path_factory: pytest.TempPathFactory, environ: dict[str, str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "environment.yml"
    path.write_text(BASE)
    try:
        load(path, environ)
    except ConfigError as error:
        faults = error.faults
    else:
        faults = ("nothing is wrong with it",)
    assert faults
    assert all("\n" not in fault for fault in faults)
