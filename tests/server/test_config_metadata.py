"""The block `metadata` of the configuration: which driver, and a URL that no message repeats."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from registry_server.cli import main
from registry_server.config import ConfigError, Loaded, dump, load

BASE = "version: 0.1\nstorage: {filesystem: {rootdirectory: /var/lib/registry}}\n"
URL = "postgresql://regatta:hunter2@db:5432/regatta"


def loaded(folder: Path, block: str, **environ: str) -> Loaded:
    file = folder / "config.yml"
    file.write_text(BASE + block)
    return load(file, environ)


@pytest.mark.parametrize(
    "block", ["", "metadata:\n", "metadata: {}\n", "metadata: layout\n", "metadata: {layout: {}}\n"]
)
def test_link_files_are_the_default(tmp_path: Path, block: str) -> None:
    assert loaded(tmp_path, block).config.metadata.sql is None


@pytest.mark.parametrize(
    "url",
    [
        URL,
        "postgres://db/regatta",
        "postgresql:///regatta?host=/run/postgresql",
        "mysql://u:p%40ss@db/regatta",
        "mariadb://[::1]:3306/regatta",
        "sqlite:////var/lib/registry/metadata.db",
    ],
)
def test_a_database_is_named_by_its_url(tmp_path: Path, url: str) -> None:
    sql = loaded(tmp_path, f"metadata: {{sql: {{url: '{url}', poolsize: 2, timeout: 3s}}}}\n").config.metadata.sql
    assert sql is not None
    assert sql.url is not None
    assert sql.url.get_secret_value() == url


def test_the_environment_may_name_it(tmp_path: Path) -> None:
    config = loaded(tmp_path, "", REGISTRY_METADATA_SQL_URL=URL).config
    assert load_again(tmp_path, dump(config)) == loaded(tmp_path, f"metadata: {{sql: {{url: '{URL}'}}}}\n")


def load_again(folder: Path, text: str) -> Loaded:
    file = folder / "again.yml"
    file.write_text(text)
    return load(file, {})


@pytest.mark.parametrize(
    ("block", "fault"),
    [
        ("metadata: sql\n", "metadata.sql: needs either url, such as sqlite:"),
        ("metadata:\n  sql:\n", "metadata.sql: needs either url"),
        (f"metadata: {{sql: {{url: '{URL}', urlfile: /dev/null}}}}\n", "metadata.sql: needs either url"),
        (f"metadata: {{layout: {{}}, sql: {{url: '{URL}'}}}}\n", "metadata: has two drivers; keep layout or sql"),
        ("metadata: {sql: {urlfile: /none}}\n", "metadata.sql.urlfile: /none does not exist"),
        ("metadata: {sql: {url: hunter2}}\n", "metadata.sql.url: must begin with one of sqlite://"),
        ("metadata: {sql: {url: 'oracle://u:hunter2@db/x'}}\n", "metadata.sql.url: must begin with one of"),
        ("metadata: {sql: {url: 'sqlite:///metadata-hunter2.db'}}\n", "metadata.sql.url: must have an absolute path"),
        ("metadata: {sql: {url: 'mysql://u:hunter2@db'}}\n", "metadata.sql.url: must be like mysql://USER:PASSWORD"),
        ("metadata: {sql: {url: 'mysql://u:hunter2@db:x/y'}}\n", "metadata.sql.url: must be like mysql://"),
        ("metadata: {sql: {url: 'mysql://u:[hunter2@db/y'}}\n", "metadata.sql.url: must be like mysql://"),
        (f"metadata: {{sql: {{url: '{URL}', poolsize: 1}}}}\n", "metadata.sql.poolsize: must be at least 2"),
        (f"metadata: {{sql: {{url: '{URL}', migrate: no}}}}\n", "metadata.sql.migrate: must be auto or manual"),
        (
            f"metadata: {{sql: {{dsn: '{URL}'}}}}\n",
            "metadata.sql.dsn: is not a setting; remove it or use one of: migrate",
        ),
    ],
)
def test_what_is_wrong_is_said_without_the_password(tmp_path: Path, block: str, fault: str) -> None:
    with pytest.raises(ConfigError) as raised:
        loaded(tmp_path, block)
    assert fault in str(raised.value)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("as_", ["text", "json"])
def test_a_check_shows_where_it_is_and_not_its_password(tmp_path: Path, as_: str) -> None:
    loaded(tmp_path, f"metadata: {{sql: {{url: '{URL}'}}}}\n")
    result = CliRunner().invoke(main, ["config", "check", str(tmp_path / "config.yml"), "--format", as_])
    assert result.exit_code == 0
    assert "hunter2" not in result.output
    if as_ == "text":
        assert "PostgreSQL, regatta at db:5432" in result.stdout
    else:
        assert json.loads(result.stdout)["config"]["metadata"]["sql"]["url"] == "***"
