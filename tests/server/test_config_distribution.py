"""Settings of distribution's that Regatta does not implement yet: named as such, or passed over if nothing changes."""

from pathlib import Path

import pytest

from registry_server.config import ConfigError, Loaded, load

BASE = "version: 0.1\nstorage:\n  filesystem: {rootdirectory: /srv/registry}\n"


def read(directory: Path, text: str) -> Loaded:
    path = directory / "config.yml"
    path.write_text(text)
    return load(path, {})


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("middleware: {storage: [{name: cloudfront}]}", "4: middleware"),
        ("reporting: {bugsnag: {apikey: x}}", "4: reporting"),
        ("compatibility: {schema1: {enabled: true}}", "4: compatibility"),
        ("policy: {repository: {classes: [image]}}", "4: policy.repository.classes"),
        ("auth: {silly: {realm: x, service: y}}", "4: auth.silly"),
        ("auth: silly", "4: auth.silly"),
        ("http: {net: unix}", "4: http.net"),
        ("http: {tls: {letsencrypt: {email: a@b.c, cachefile: /x}}}", "4: http.tls.letsencrypt"),
        ("http: {tls: {ciphersuites: [TLS_AES_128_GCM_SHA256]}}", "4: http.tls.ciphersuites"),
        ("log: {hooks: [{type: mail}]}", "4: log.hooks"),
        ("  inmemory:", "4: storage.inmemory"),
    ],
)
def test_what_would_change_the_behaviour_is_refused_by_name(tmp_path: Path, text: str, place: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, f"{BASE}{text}\n")
    start = f"{tmp_path}/config.yml:{place}: is a setting of distribution's that Regatta does not implement"
    assert any(fault.startswith(start) for fault in raised.value.faults), raised.value.faults


@pytest.mark.parametrize("driver", ["inmemory", "swift", "oss"])
def test_another_driver_is_the_only_fault_of_its_configuration(tmp_path: Path, driver: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, f"version: 0.1\nstorage: {{{driver}: {{bucket: b}}}}\n")
    assert len(raised.value.faults) == 1
    assert f"storage.{driver}: is a setting of distribution's" in raised.value.faults[0]


@pytest.mark.parametrize(
    "text",
    [
        "proxy: {}",
        "proxy: {remoteurl: ''}",
        "redis:",
        "notifications: {endpoints: []}",
        "notifications: {events: {includereferences: true}, endpoints: [{name: a, disabled: true}]}",
        "middleware: {storage: [{name: redirect, disabled: true}]}",
        "validation: {disabled: true}",
        "validation: {enabled: false, manifests: {indexes: {platforms: all}}}",
        "catalog: {maxentries: 1000}",
        "auth: none",
        "auth: {none: {}}",
        "http: {net: tcp, h2c: {enabled: false}}",
        "health: {file: [], http: [], tcp: []}",
        "log: {hooks: [{type: mail, disabled: true}]}",
        "  redirect: {disable: true}",
        "  redirect: {disable: false}",
        "  maintenance: {uploadpurging: {enabled: true, age: 168h, interval: 24h, dryrun: false}}",
    ],
)
def test_what_changes_nothing_is_passed_over(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, f"{BASE}{text}\n").warnings == ()


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("  cache: {blobdescriptor: inmemory}", "4: storage.cache.blobdescriptor"),
        ("  cache: {blobdescriptor: redis}", "4: storage.cache.blobdescriptor"),
        ("redis: {addrs: [localhost:6379], password: x}", "4: redis"),
        ("  cache: {blobdescriptorsize: 10}", "4: storage.cache.blobdescriptorsize"),
        ("  cache: {layerinfo: inmemory}", "4: storage.cache.layerinfo"),
        ("  tag: {concurrencylimit: 8}", "4: storage.tag.concurrencylimit"),
    ],
)
def test_what_only_tunes_is_passed_over_with_a_warning(tmp_path: Path, text: str, place: str) -> None:
    (warning,) = read(tmp_path, f"{BASE}{text}\n").warnings
    assert warning.startswith(f"{tmp_path}/config.yml:{place}: has no effect")


@pytest.mark.parametrize(
    ("text", "level"), [("loglevel: debug", "debug"), ("loglevel: debug\nlog: {level: warn}", "warn")]
)
def test_the_old_name_of_the_log_level_counts_where_the_new_one_is_not(tmp_path: Path, text: str, level: str) -> None:
    loaded = read(tmp_path, f"{BASE}{text}\n")
    assert loaded.config.log.level == level
    assert loaded.warnings == (f"{tmp_path}/config.yml:4: loglevel: is an old name; write log.level instead",)


def test_a_misspelt_key_of_its_blocks_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"config\.yml:4: storage\.cache\.blobdescripter: is not a setting; did you mean "
    ):
        read(tmp_path, f"{BASE}  cache: {{blobdescripter: inmemory}}\n")


def test_a_misspelt_name_of_one_is_recognized(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"config\.yml:4: notification: is not a setting; did you mean notifications\?"
    ):
        read(tmp_path, f"{BASE}notification: {{}}\n")


def test_the_sample_of_common_guides_loads_with_warnings_of_what_it_repeats(tmp_path: Path) -> None:
    loaded = read(
        tmp_path,
        """version: 0.1
log:
  fields:
    service: registry
storage:
  cache:
    blobdescriptor: inmemory
  filesystem:
    rootdirectory: /var/lib/registry
http:
  addr: :5000
  secret: placeholder
  headers:
    X-Content-Type-Options: [nosniff]
  secret: somethingelse
health:
  storagedriver:
    enabled: true
    interval: 10s
    threshold: 3
health:
  storagedriver:
    enabled: true
    interval: 10s
    threshold: 3
""",
    )
    assert [
        warning.removeprefix(f"{tmp_path}/config.yml:").partition(";")[0].partition(": it")[0]
        for warning in loaded.warnings
    ] == [
        "15: http.secret: repeats line 12",
        "21: health: repeats line 16",
        "7: storage.cache.blobdescriptor: has no effect",
    ]
    assert loaded.config.http.secret.get_secret_value() == "somethingelse"


@pytest.mark.parametrize("kind", ["request-client-cert", "require-any-client-cert", "verify-client-cert-if-given"])
def test_certificates_of_clients_are_required_or_not_asked_for(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ConfigError, match=f"http.tls.clientauth: {kind} is not offered: who a client's certificate"):
        read(tmp_path, f"{BASE}http: {{tls: {{certificate: /c, key: /k, clientauth: {kind}}}}}\n")
