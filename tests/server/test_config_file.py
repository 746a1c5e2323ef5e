"""The configuration file: what is read, how it is written, and what one line each fault of it becomes."""

import re
import string
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from registry_server.config import (
    HTTP,
    TLS,
    Access,
    Address,
    Auth,
    Config,
    ConfigError,
    Debug,
    Htpasswd,
    Loaded,
    Log,
    Policy,
    Storage,
    dump,
    format_duration,
    load,
    parse_duration,
)

BASE = "version: 0.1\nstorage: {filesystem: {rootdirectory: /srv/registry}}\n"


PATHS = [
    "version",
    "log",
    "log.level",
    "log.formatter",
    "log.fields",
    "log.accesslog",
    "log.accesslog.disabled",
    "storage",
    "storage.filesystem",
    "storage.filesystem.rootdirectory",
    "storage.filesystem.maxthreads",
    "storage.delete.enabled",
    "storage.maintenance",
    "storage.maintenance.uploadpurging.age",
    "http",
    "http.addr",
    "http.host",
    "http.prefix",
    "http.secret",
    "http.relativeurls",
    "http.headers",
    "http.headers.X",
    "http.draintimeout",
    "http.tls",
    "http.tls.certificate",
    "http.tls.minimumtls",
    "http.debug",
    "http.debug.prometheus.path",
    "auth",
    "auth.htpasswd",
    "auth.htpasswd.realm",
    "auth.htpasswd.path",
    "health.storagedriver.threshold",
    "access",
    "access.policies",
]


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    return tmp_path / "config.yml"


def read(path: Path, text: str, **environ: str) -> Loaded:
    path.write_text(text)
    return load(path, environ)


def faults(path: Path, text: str, **environ: str) -> list[str]:
    """The faults of a configuration, without the path they begin with."""
    with pytest.raises(ConfigError) as raised:
        read(path, text, **environ)
    assert str(raised.value).split("\n") == list(raised.value.faults)
    return [fault.removeprefix(str(path)).removeprefix(":") for fault in raised.value.faults]


class TestWhatIsRead:
    def test_the_smallest_configuration_has_distributions_defaults(self, config_file: Path) -> None:
        config = read(config_file, "version: 0.1\nstorage: filesystem\n").config
        assert config.storage.filesystem.rootdirectory == Path("/var/lib/registry")
        assert config.http.addr == Address("", 5000)
        assert not config.storage.delete.enabled
        assert config.log.level == "info"
        assert config.auth.htpasswd is None
        assert config.access is None

    @pytest.mark.parametrize("text", ["filesystem", "{filesystem: }", "{filesystem: {}}"])
    def test_a_driver_may_have_no_settings(self, config_file: Path, text: str) -> None:
        assert read(config_file, f"version: 0.1\nstorage: {text}\n").config.storage.filesystem.maxthreads == 100

    def test_a_block_with_nothing_in_it_is_as_good_as_absent(self, config_file: Path) -> None:
        assert read(config_file, f"{BASE}http:\n  tls:\n  debug:\nauth:\n").config == read(config_file, BASE).config

    def test_numbers_where_text_is_wanted_keep_their_digits(self, config_file: Path) -> None:
        text = f"{BASE}http: {{secret: 0012, headers: {{X-Answer: [4.20]}}}}\n"
        http = read(config_file, text).config.http
        assert http.secret.get_secret_value() == "0012"
        assert http.headers["X-Answer"] == ("4.20",)

    def test_aliases_and_merges_are_expanded(self, config_file: Path) -> None:
        text = """
version: 0.1
storage: {filesystem: {}}
access:
  policies:
    - &all {subjects: [authenticated], repositories: ["**"], role: reader}
    - {<<: *all, role: writer}
"""
        access = read(config_file, text).config.access
        assert access is not None
        assert [policy.role for policy in access.policies] == ["reader", "writer"]

    def test_the_level_is_read_in_any_case(self, config_file: Path) -> None:
        assert read(config_file, f"{BASE}log: {{level: DEBUG}}\n").config.log.level == "debug"

    def test_it_never_shows_the_secret(self, config_file: Path) -> None:
        config = read(config_file, f"{BASE}http: {{secret: hunter2}}\n").config
        assert "hunter2" not in repr(config)


class TestRepeatedKeys:
    """What distribution's parser makes of them, checked against v3.1.2."""

    def test_repeated_blocks_merge_with_a_warning_that_names_both_lines(self, config_file: Path) -> None:
        loaded = read(
            config_file,
            BASE + "http:\n  secret: one\n  secret: two\nhealth:\n  storagedriver: {interval: 7s}\n"
            "health:\n  storagedriver: {threshold: 9}\n",
        )
        assert loaded.config.http.secret.get_secret_value() == "two"
        check = loaded.config.health.storagedriver
        assert (check.interval, check.threshold) == (timedelta(seconds=7), 9)
        secret, health = loaded.warnings
        assert secret.startswith(f"{config_file}:5: http.secret: repeats line 4; only the later one counts")
        assert health.startswith(f"{config_file}:8: health: repeats line 6; both are merged")

    def test_the_last_storage_alone_counts(self, config_file: Path) -> None:
        text = "version: 0.1\nstorage: {filesystem: {}, delete: {enabled: true}}\nstorage: {filesystem: {}}\n"
        loaded = read(config_file, text)
        assert not loaded.config.storage.delete.enabled
        assert len(loaded.warnings) == 1

    def test_what_a_merge_brings_is_overridden_without_a_warning(self, config_file: Path) -> None:
        text = f"{BASE}log: &log {{level: debug, fields: {{a: 1}}}}\n"
        loaded = read(config_file, text.replace("fields: {a: 1}", "fields: {<<: {a: 1}, a: 2}"))
        assert loaded.config.log.fields == {"a": 2}
        assert loaded.warnings == ()


class TestFaults:
    @pytest.mark.parametrize(
        ("text", "fault"),
        [
            ("http:\n  adr: :5000\n", "4: http.adr: is not a setting; did you mean http.addr?"),
            ("zzz: 1\n", "3: zzz: is not a setting; remove it or use one of: access, auth, "),
            ("zzz:\n", "3: zzz: is not a setting; remove it or use one of: access, auth, "),
            (
                "log:\n  rootdirectory: /x\n",
                "4: log.rootdirectory: is not a setting here; did you mean storage.filesys",
            ),
            ("http: {addr: 5000}\n", "3: http.addr: must be host:port or :port"),
            ('http: {addr: ":99999"}\n', "3: http.addr: port 99999 does not exist"),
            ("http: {draintimeout: 10}\n", "3: http.draintimeout: 10 is 10 nanoseconds; give a unit, for example 10s"),
            ("http: {draintimeout: ten}\n", "3: http.draintimeout: must be a duration such as 10s"),
            ("http: {draintimeout: -1s}\n", "3: http.draintimeout: must be a duration"),
            ("http: {http2: {disabled: 'yes'}}\n", "3: http.http2.disabled: must be true or false, without quotes"),
            ("http: {http2: 1}\n", "3: http.http2: must be a map of settings"),
            ("http: {headers: {X-A: b}}\n", "3: http.headers.X-A: must be a list"),
            ("http: {headers: {'X A': [b]}}\n", "3: http.headers: 'X A' is not the name of a header"),
            ('http: {headers: {X-A: ["b\\r\\nc"]}}\n', "3: http.headers: a value of X-A has characters"),
            ("http: {prefix: registry}\n", "3: http.prefix: must start and end with /"),
            ("http: {host: example.com}\n", "3: http.host: must be a whole URL such as https://"),
            ("http:\n  tls:\n    certificate: /x\n", "4: http.tls.key: is missing; give the path of the PEM file"),
            ("http: {tls: {minimumtls: tls1.0}}\n", "3: http.tls.minimumtls: tls1.0 is broken"),
            ("http: {debug: {prometheus: {enabled: true}}}\n", "3: http.debug.addr: is missing; add an address"),
            ("log: {level: inof}\n", "3: log.level: must be error, warn, info or debug; did you mean info?"),
            ("health: {storagedriver: {threshold: -1}}\n", "3: health.storagedriver.threshold: must be at least 0"),
            (
                "health: {storagedriver: {threshold: 1.5}}\n",
                "3: health.storagedriver.threshold: must be a whole number",
            ),
            ("auth: {htpasswd: {path: /x}}\n", "3: auth.htpasswd.realm: is missing; add a name"),
            ('auth: {htpasswd: {path: /x, realm: "a\\nb"}}\n', "3: auth.htpasswd.realm: must be of printable ASCII"),
            ("auth: {htpasswd: }\n", "3: auth.htpasswd.realm: is missing; add a name"),
            (
                "auth: htpasswd\n",
                "3: auth.htpasswd.path: is missing; give the path of a file made with: registry-server",
            ),
            ("access:\n", "3: access: has no policies; add them, or remove access"),
        ],
    )
    def test_each_is_one_line_with_its_place(self, config_file: Path, text: str, fault: str) -> None:
        found = faults(config_file, BASE + text)
        assert any(one.startswith(fault) for one in found), found

    @pytest.mark.parametrize(
        ("policy", "fault"),
        [
            (
                "{subjects: [anon], repositories: ['**'], role: reader}",
                "subjects[0]: must be anonymous, authenticated, user:NAME",
            ),
            ("{subjects: ['user:'], repositories: ['**'], role: reader}", "subjects[0]: must be anonymous"),
            ("{subjects: [], repositories: ['**'], role: reader}", "subjects: must not be empty"),
            ("{subjects: [anonymous], repositories: ['a**'], role: reader}", "repositories[0]: ** stands for whole"),
            (
                "{subjects: [anonymous], repositories: [Team], role: reader}",
                "repositories[0]: must be repository names",
            ),
            ("{subjects: [anonymous], repositories: [team/], role: reader}", "repositories[0]: has an empty component"),
            (
                "{subjects: [anonymous], repositories: ['**'], actions: [read]}",
                "actions[0]: must be pull, push, delete or admin",
            ),
        ],
    )
    def test_of_a_policy(self, config_file: Path, policy: str, fault: str) -> None:
        found = faults(config_file, f"{BASE}access:\n  policies:\n    - {policy}\n")
        assert len(found) == 1
        assert found[0].startswith(f"5: access.policies[0].{fault}")

    @pytest.mark.parametrize("grant", ["", ", role: reader, actions: [pull]"])
    def test_a_policy_has_a_role_or_actions(self, config_file: Path, grant: str) -> None:
        policies = f"access: {{policies: [{{subjects: [anonymous], repositories: ['**']{grant}}}]}}\n"
        assert faults(config_file, BASE + policies)[0].startswith("3: access.policies[0]: needs either role")

    def test_all_are_reported_together_in_the_order_of_the_file(self, config_file: Path) -> None:
        text = f"{BASE}policy: {{repository: {{classes: [x]}}}}\nhttp:\n  adr: x\n  addr: y\nlog: {{level: loud}}\n"
        found = faults(config_file, text, REGISTRY_HTTP_PREFIX="x")
        assert [one.partition(":")[0] for one in found] == [
            "3",
            "5",
            "6",
            "7",
            "environment variable REGISTRY_HTTP_PREFIX",
        ]

    @pytest.mark.parametrize(
        ("text", "fault"),
        [
            ("", "1: storage: is missing; add storage: {filesystem:"),
            ("- a\n", "1: must be a map of settings that starts with version: 0.1"),
            ("version: 0.1\nstorage: {}\n", "2: storage: has no driver; add filesystem: "),
            ("version: 0.2\nstorage: filesystem\n", "1: version: must be 0.1"),
            ("storage: filesystem\n", "1: version: is missing; add version: 0.1 as the first line"),
            ("a: b: c\n", "1: is not valid YAML: mapping values are not allowed"),
            ("a:\n\tb: 2\n", "2: is not valid YAML: found character that cannot start any token"),
            ("a: 1\n\tb: 2\n", "2: is not valid YAML: found a tab character that violates indentation; indent with"),
            ("a: 1\n---\nb: 2\n", "2: is not valid YAML: it holds several documents"),
            ("a: &x {b: *x}\n", "1: a.b: the alias refers to a block it is part of"),
            ("? [a]\n: b\n", "1: a key must be a plain text"),
            ("a: !!binary aGk=\n", "1: a: nothing here takes a value of type"),
            ("[" * 100_000, " is nested deeper than 64 levels"),
            ("a: \x07\n", " has characters that no YAML text may have"),
        ],
    )
    def test_of_the_file_as_a_whole(self, config_file: Path, text: str, fault: str) -> None:
        assert any(one.startswith(fault) for one in faults(config_file, text))

    def test_aliases_of_aliases_do_not_exhaust_the_memory(self, config_file: Path) -> None:
        bomb = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
        assert "has more than 100,000 values" in faults(config_file, bomb)[0]

    @pytest.mark.parametrize("value", ["[]", "[x]", "{x: 1}", "1", "1.5", "true", "text", '"a\\0b"', "[[]]", ".nan"])
    def test_a_value_of_any_kind_anywhere_gets_a_reason_in_our_words(self, config_file: Path, value: str) -> None:
        for path in PATHS:
            keys = path.split(".")
            nested = "".join(f"{'  ' * depth}{key}:\n" for depth, key in enumerate(keys[:-1]))
            config_file.write_text(f"{nested}{'  ' * (len(keys) - 1)}{keys[-1]}: {value}\n")
            with pytest.raises(ConfigError) as raised:
                load(config_file, {})
            assert not [fault for fault in raised.value.faults if "Input should" in fault or "input" in fault]

    def test_a_file_that_is_not_there(self, config_file: Path) -> None:
        with pytest.raises(ConfigError, match=rf"^{re.escape(str(config_file))}: cannot be read: No such file"):
            load(config_file, {})

    def test_files_it_refers_to_must_be_readable(self, config_file: Path, tmp_path: Path) -> None:
        text = f"{BASE}http:\n  tls:\n    certificate: {tmp_path}\n    key: {tmp_path}/key\n"
        text += f"auth:\n  htpasswd: {{realm: R, path: {tmp_path}/logins}}\n"
        certificate, key, logins = faults(config_file, text)
        assert certificate.startswith(f"5: http.tls.certificate: {tmp_path} cannot be read: Is a directory")
        assert key.startswith(f"6: http.tls.key: {tmp_path}/key does not exist")
        assert logins.startswith(
            f"8: auth.htpasswd.path: {tmp_path}/logins does not exist; make it with: registry-server"
        )

    def test_a_secret_is_never_in_them(self, config_file: Path) -> None:
        text = f"{BASE}http: {{secret: [hunter2]}}\n"
        assert "hunter2" not in "".join(
            faults(config_file, text, REGISTRY_HTTP_SECRET="{hunter2", REGISTRY_X="hunter2")
        )

    @settings(deadline=None)
    @given(st.text() | st.binary())
    def test_no_file_whatever_fails_otherwise(
        self, tmp_path_factory: pytest.TempPathFactory, content: str | bytes
    ) -> None:
        path = tmp_path_factory.getbasetemp() / "arbitrary.yml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode(errors="surrogatepass"))
        with pytest.raises(ConfigError) as raised:
            load(path, {})
        assert all(fault.startswith(str(path)) and "\n" not in fault for fault in raised.value.faults)


class TestWarnings:
    def test_logins_without_tls(self, config_file: Path, tmp_path: Path) -> None:
        (tmp_path / "logins").touch()
        loaded = read(config_file, f"{BASE}auth: {{htpasswd: {{realm: R, path: {tmp_path}/logins}}}}\n")
        assert [one.partition(": ")[2].partition(":")[0] for one in loaded.warnings] == ["auth.htpasswd"]

    def test_policies_for_users_where_nobody_can_log_in(self, config_file: Path) -> None:
        policies = "[{subjects: [anonymous, authenticated], repositories: ['**'], role: reader},\n"
        policies += " {subjects: ['user:ci'], repositories: ['**'], role: writer}]"
        loaded = read(config_file, f"{BASE}access: {{policies: {policies}}}\n")
        assert loaded.warnings == (
            f"{config_file}:4: access.policies[1]: grants nothing: nobody can log in without auth",
        )


class TestDurations:
    @pytest.mark.parametrize(
        ("text", "duration"),
        [
            ("10s", timedelta(seconds=10)),
            ("1h30m", timedelta(hours=1, minutes=30)),
            ("500ms", timedelta(milliseconds=500)),
            ("1.5h", timedelta(minutes=90)),
            (".5s", timedelta(milliseconds=500)),
            ("2000µs", timedelta(milliseconds=2)),
            ("1s1s", timedelta(seconds=2)),
            ("0", timedelta(0)),
            (10**10, timedelta(seconds=10)),
        ],
    )
    def test_are_written_as_in_go(self, text: str | int, duration: timedelta) -> None:
        assert parse_duration(text) == duration

    @pytest.mark.parametrize(
        "text", ["", "s", "10", "10 s", "1d", "-1s", "+1s", "1s ", "1e3s", "10sx", "9999999999h", True, 1.5]
    )
    def test_and_as_nothing_else(self, text: object) -> None:
        with pytest.raises(ValueError, match="must be a duration"):
            parse_duration(text)

    @settings(deadline=None)
    @given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=90_000)))
    def test_read_back_as_they_were_written(self, duration: timedelta) -> None:
        if timedelta(0) < duration < timedelta(milliseconds=1):
            duration += timedelta(milliseconds=1)
        assert parse_duration(format_duration(duration)) == duration

    @pytest.mark.parametrize("text", ["10s", "1h30m", "168h", "500ms", "1m30s", "0s"])
    def test_are_shown_in_the_shortest_way(self, text: str) -> None:
        assert format_duration(parse_duration(text)) == text


class TestAddresses:
    @pytest.mark.parametrize(
        ("text", "address"),
        [
            (":5000", Address("", 5000)),
            ("localhost:0", Address("localhost", 0)),
            ("[::1]:443", Address("::1", 443)),
            ("0.0.0.0:65535", Address("0.0.0.0", 65535)),
        ],
    )
    def test_are_host_and_port(self, text: str, address: Address) -> None:
        assert HTTP(addr=text).addr == address
        assert str(address) == text

    @pytest.mark.parametrize(
        "text", ["5000", "localhost", "::1:443", "[::1]", "a:b", "a b:1", "/run/socket", ":65536", ""]
    )
    def test_and_nothing_else(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"must be host:port|does not exist"):
            HTTP(addr=text)


names = st.text(string.ascii_lowercase, min_size=1, max_size=8)
durations = st.integers(1, 10**6).map(lambda seconds: timedelta(seconds=seconds))
policies = st.builds(
    Policy,
    subjects=st.lists(st.sampled_from(["anonymous", "authenticated"]) | names.map("user:{}".format), min_size=1),
    repositories=st.lists(st.sampled_from(["**", "team/*", "a?c/**/x"]) | names, min_size=1),
    role=st.sampled_from(["reader", "writer", "maintainer", "admin"]),
)
headers = st.dictionaries(names, st.lists(st.text(string.printable.strip(), max_size=20), max_size=2), max_size=2)
configs = st.builds(
    Config,
    version=st.just("0.1"),
    storage=st.builds(
        Storage,
        filesystem=st.fixed_dictionaries(
            {},
            optional={
                "rootdirectory": st.text(min_size=1).filter(lambda s: "\0" not in s),
                "maxthreads": st.integers(1),
            },
        ),
        delete=st.fixed_dictionaries({}, optional={"enabled": st.booleans()}),
    ),
    http=st.builds(
        HTTP,
        addr=st.builds("{}:{}".format, names, st.integers(0, 65535)),
        secret=st.text(string.printable),
        draintimeout=durations,
        headers=headers,
        debug=st.none() | st.builds(Debug, addr=st.just(":5001")),
    ),
    log=st.builds(
        Log,
        level=st.sampled_from(["error", "warn", "info", "debug"]),
        fields=st.dictionaries(
            names,
            st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
            max_size=3,
        ),
    ),
    access=st.none() | st.builds(Access, policies=st.lists(policies, max_size=3)),
)


class TestDump:
    @settings(deadline=None)
    @given(configs)
    def test_what_is_written_is_read_back_the_same(
        self, tmp_path_factory: pytest.TempPathFactory, config: Config
    ) -> None:
        path = tmp_path_factory.getbasetemp() / "dumped.yml"
        path.write_text(dump(config))
        loaded = load(path, {}).config
        assert loaded == config
        assert dump(loaded) == dump(config)

    def test_it_is_sorted_and_holds_only_what_was_set(self) -> None:
        config = Config(
            version="0.1",
            storage=Storage(filesystem={"rootdirectory": "/srv"}),
            http=HTTP(
                draintimeout=timedelta(seconds=90), addr=":5000", tls=TLS(key="/key", certificate="/crt"), debug=None
            ),
            auth=Auth(htpasswd=Htpasswd(realm="R", path="/logins")),
        )
        assert dump(config) == (
            "auth:\n  htpasswd:\n    path: /logins\n    realm: R\n"
            "http:\n  addr: :5000\n  draintimeout: 1m30s\n  tls:\n    certificate: /crt\n    key: /key\n"
            "storage:\n  filesystem:\n    rootdirectory: /srv\nversion: 0.1\n"
        )

    def test_the_order_of_setting_changes_nothing(self) -> None:
        one: dict[str, Any] = {"version": "0.1", "storage": {"filesystem": {}, "delete": {"enabled": True}}, "log": {}}
        other = dict(reversed(one.items())) | {"storage": dict(reversed(one["storage"].items()))}
        assert dump(Config(**one)) == dump(Config(**other))

    def test_distribution_reads_the_version_it_writes(self) -> None:
        assert yaml.safe_load(dump(Config(version="0.1", storage=Storage(filesystem={}))))["version"] == 0.1


OIDC = "oidc: {issuer: https://login.example.com, clientid: registry}"
TOKEN = "token: {realm: https://tokens.example.com, service: registry, issuer: tokens, jwks: %s}"


class TestLogins:
    """What goes together, and what would let more in than was meant."""

    @pytest.mark.parametrize(
        ("auth", "fault"),
        [
            ("{token: {service: a, issuer: b, realm: c}}", "auth.token: needs rootcertbundle or jwks"),
            ("{token: {service: a, issuer: b, jwks: /x}}", "auth.token: needs realm"),
            ("{token: {issuer: b, realm: c, jwks: /x}}", "auth.token.service: is missing; give the name by which"),
            (
                "{token: {service: a, issuer: b, realm: c, jwks: /x, signingalgorithms: [HS256]}}",
                "auth.token.signingalgorithms[0]: HS256 is not accepted: whoever can verify such a token can make one",
            ),
            (
                "{token: {service: a, issuer: b, realm: c, jwks: /x, signingalgorithms: [none]}}",
                "auth.token.signingalgorithms[0]: none is not accepted",
            ),
            ("{oidc: {issuer: 'http://login.example.com', clientid: a}}", "auth.oidc.issuer: must be https"),
            ("{oidc: {issuer: login, clientid: a}}", "auth.oidc.issuer: must be a URL such as https://login"),
            ("{oidc: {clientid: a}}", "auth.oidc.issuer: is missing; give the issuer's URL"),
            ("{kubernetes: {}}", "auth.kubernetes.audience: is missing; give what tokens must be made for"),
            (f"{{{OIDC}, {TOKEN % '/x'}}}", "auth: token stands alone: its server knows the logins"),
        ],
    )
    def test_what_is_wrong_with_them(self, config_file: Path, auth: str, fault: str) -> None:
        found = faults(config_file, f"{BASE}auth: {auth}\n")
        assert any(one.startswith(f"3: {fault}") for one in found), found

    @pytest.mark.parametrize("auth", [OIDC, "kubernetes: {audience: registry}"])
    def test_logins_of_others_need_policies(self, config_file: Path, auth: str) -> None:
        found = faults(config_file, f"{BASE}auth: {{{auth}}}\n")
        assert "needs access.policies; without them every" in found[0]

    def test_a_token_server_has_policies_of_its_own(self, config_file: Path) -> None:
        found = faults(config_file, f"{BASE}auth: {{{TOKEN % config_file}}}\naccess: {{policies: []}}\n")
        assert "access.policies: the token server decides who may do what" in found[0]
        rules = "access: {immutabletags: [{repositories: ['**'], semver: true}]}"
        assert read(config_file, f"{BASE}auth: {{{TOKEN % config_file}}}\n{rules}\n").config.auth.has_logins
