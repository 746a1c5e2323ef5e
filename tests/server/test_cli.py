"""The `registry-server` command, as a person at a terminal and a program meet it."""

import json
import os
import pty
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from registry_server import __version__
from registry_server.auth.htpasswd import Users, check_password, entry
from registry_server.cli import main

BASE = "version: 0.1\nstorage: {filesystem: {rootdirectory: %s/data}}\n"
COMMAND = [sys.executable, "-c", "from registry_server.cli import main; main()"]


@pytest.fixture(autouse=True)
def _no_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("REGISTRY_"):
            monkeypatch.delenv(name)


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "config.yml"
    path.write_text(BASE % tmp_path)
    return path


def run(*words: str | Path, typed: str | None = None) -> Result:
    result = CliRunner().invoke(main, list(map(str, words)), input=typed)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_it_says_its_version() -> None:
    assert run("--version").output == f"registry-server, version {__version__}\n"


@pytest.mark.parametrize("words", [[], ["serve"], ["htpasswd"], ["config"], ["config", "check"], ["access", "check"]])
def test_help_is_there_for_every_command(words: list[str]) -> None:
    result = run(*words, "--help")
    assert result.exit_code == 0
    assert f"Usage: main {' '.join(words)}".rstrip() in result.output
    assert words == ["config"] or "registry-server " in result.output, "no example"


class TestHtpasswd:
    def test_it_prints_a_line_for_a_password_from_standard_input(self) -> None:
        result = run("htpasswd", "--cost", "4", "alice", typed="secret\nsomething else\n")
        user, _, hashed = result.stdout.rstrip("\n").partition(":")
        assert user == "alice"
        assert hashed.startswith("$2b$04$")
        assert check_password(b"secret", hashed.encode())

    def test_it_adds_and_changes_users_of_a_file(self, tmp_path: Path) -> None:
        file = tmp_path / "htpasswd"
        assert run("htpasswd", "--cost", "4", file, "alice", typed="one\n").stderr == f"{file}: added alice\n"
        run("htpasswd", "--cost", "4", file, "bob", typed="two\n")
        changed = run("htpasswd", "--cost", "4", file, "alice", typed="three\n")
        assert changed.stderr == f"{file}: changed the password of alice\n"
        hashes = Users.load(file).hashes
        assert list(hashes) == ["alice", "bob"]
        assert check_password(b"three", hashes["alice"])
        assert changed.stdout == ""

    @pytest.mark.parametrize(
        ("words", "typed", "reason"),
        [
            (["alice"], "\n", "the password is empty"),
            (["alice"], "x" * 73, "bcrypt looks at 72"),
            (["a:b"], "secret\n", "must not be empty, begin with # or have a colon"),
            (["file", "alice", "secret"], "", "the password is read from standard input"),
            ([], "", "Missing argument"),
        ],
    )
    def test_what_it_cannot_do_it_says(self, words: list[str], typed: str, reason: str) -> None:
        result = run("htpasswd", *words, typed=typed)
        assert result.exit_code == 2
        assert reason in result.stderr
        assert result.stdout == ""

    def test_a_directory_that_is_not_there(self, tmp_path: Path) -> None:
        result = run("htpasswd", "--cost", "4", tmp_path / "none" / "htpasswd", "alice", typed="secret\n")
        assert result.exit_code == 2
        assert (
            result.stderr
            == f"{tmp_path}/none/htpasswd: cannot be written: No such file or directory; choose another file\n"
        )

    def test_at_a_terminal_it_asks_twice_and_shows_nothing(self) -> None:
        controller, terminal = pty.openpty()
        command = subprocess.Popen(
            [*COMMAND, "htpasswd", "--cost", "4", "alice"],
            stdin=terminal,
            stderr=terminal,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        os.close(terminal)
        shown = b""
        for question in (b"Password: ", b"Repeat for confirmation: "):
            while question not in shown:
                assert select.select([controller], [], [], 60)[0], shown
                shown += os.read(controller, 1024)
            os.write(controller, b"secret\n")
        line, _ = command.communicate(timeout=60)
        os.close(controller)
        assert command.returncode == 0
        assert check_password(b"secret", line.strip().partition(b":")[2])
        assert b"secret" not in shown


class TestConfigCheck:
    def test_it_says_what_is_served_where(self, config_file: Path, tmp_path: Path) -> None:
        (tmp_path / "logins").write_text(entry("ci", "secret", 4))
        config_file.write_text(
            BASE % tmp_path
            + 'http: {addr: "127.0.0.1:5000", prefix: /r/, debug: {addr: ":5001", prometheus: {enabled: yes}}}\n'
            + f"auth: {{htpasswd: {{realm: Here, path: {tmp_path}/logins}}}}\n"
            + "access: {policies: [{subjects: [anonymous, 'user:ci'], repositories: [a, 'b/**'], actions: [pull]}]}\n"
        )
        result = run("config", "check", config_file)
        assert result.exit_code == 0
        assert [line.split(maxsplit=1) for line in result.stdout.splitlines()] == [
            ["registry", "http://127.0.0.1:5000/r/v2/"],
            ["storage", f"{tmp_path}/data, writable, no deletes"],
            ["logins", f"{tmp_path}/logins, realm Here"],
            ["access", "anonymous, user:ci: pull on a, b/**"],
            ["debug", "http://*:5001 /healthz /readyz /metrics"],
            ["log", "info, text"],
        ]
        assert result.stderr.count("warning: ") == 1
        assert not (tmp_path / "data").exists()

    def test_an_open_registry_is_called_one(self, config_file: Path) -> None:
        assert "everyone may do everything" in run("config", "check", config_file).stdout

    def test_faults_are_lines_and_exit_code_2(self, config_file: Path, tmp_path: Path) -> None:
        config_file.write_text(BASE % tmp_path + "http:\n  adr: x\nmiddleware: {storage: [{name: x}]}\n")
        result = run("config", "check", config_file)
        assert result.exit_code == 2
        assert result.stdout == ""
        adr, middleware = result.stderr.splitlines()
        assert adr == f"{config_file}:4: http.adr: is not a setting; did you mean http.addr?"
        assert middleware.startswith(f"{config_file}:5: middleware: is a setting of distribution's")

    def test_for_programs_it_is_json(self, config_file: Path, tmp_path: Path) -> None:
        config_file.write_text(BASE % tmp_path + "http: {secret: hunter2, secret: hunter2}\n")
        answer = json.loads(run("config", "check", config_file, "--format", "json").stdout)
        assert answer["valid"] is True
        assert answer["errors"] == []
        assert [warning.partition(";")[0] for warning in answer["warnings"]] == [
            f"{config_file}:3: http.secret: repeats line 3"
        ]
        assert answer["config"]["http"]["addr"] == ":5000"
        assert answer["config"]["http"]["secret"] == "***"
        config_file.write_text("version: 0.1\n")
        result = run("config", "check", config_file, "--format", "json")
        assert result.exit_code == 2
        answer = json.loads(result.stdout)
        assert answer["valid"] is False
        assert answer["errors"][0].startswith(f"{config_file}:1: storage: is missing")

    def test_it_reads_logins_and_certificates(self, config_file: Path, tmp_path: Path) -> None:
        for name, content in (("logins", "bob:plain\n"), ("crt", "no"), ("key", "no")):
            (tmp_path / name).write_text(content)
        config_file.write_text(
            BASE % tmp_path
            + f"auth: {{htpasswd: {{realm: R, path: {tmp_path}/logins}}}}\n"
            + f"http: {{tls: {{certificate: {tmp_path}/crt, key: {tmp_path}/key}}}}\n"
        )
        result = run("config", "check", config_file)
        assert result.exit_code == 2
        certificate, user = result.stderr.splitlines()
        assert certificate.startswith(f"{config_file}: http.tls: certificate {tmp_path}/crt with key {tmp_path}/key")
        assert user.startswith(f"{tmp_path}/logins:1: user bob has no bcrypt hash")

    @pytest.mark.parametrize(
        ("logins", "caution"),
        [("", "has no users"), (entry("alice", "x", 4), "user:ci is not in")],
        ids=["no users", "another user"],
    )
    def test_users_that_do_not_exist_are_pointed_out(
        self, config_file: Path, tmp_path: Path, logins: str, caution: str
    ) -> None:
        (tmp_path / "logins").write_text(logins)
        config_file.write_text(
            BASE % tmp_path
            + f"auth: {{htpasswd: {{realm: R, path: {tmp_path}/logins}}}}\n"
            + "access: {policies: [{subjects: ['user:ci', 'user:alice'], repositories: ['**'], role: reader}]}\n"
        )
        result = run("config", "check", config_file)
        assert result.exit_code == 0
        assert [caution in line for line in result.stderr.splitlines()] == [False, True]

    def test_the_environment_counts(self, config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("REGISTRY_HTTP_ADDR", ":1")
        monkeypatch.setenv("REGISTRY_CONFIGURATION_PATH", str(config_file))
        assert "http://*:1/v2/" in run("config", "check").stdout


class TestServe:
    @pytest.fixture
    def taken(self) -> Iterator[int]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            yield server.getsockname()[1]

    def test_a_configuration_that_is_not_there(self, tmp_path: Path) -> None:
        result = run("serve", tmp_path / "none.yml")
        assert result.exit_code == 2
        assert result.stderr == (
            f"{tmp_path}/none.yml: cannot be read: No such file or directory; give the path of a configuration file\n"
        )

    def test_a_port_in_use_is_one_line_and_exit_code_2(self, config_file: Path, tmp_path: Path, taken: int) -> None:
        config_file.write_text(BASE % tmp_path + f'http: {{addr: "127.0.0.1:{taken}"}}\n')
        result = subprocess.run(
            [*COMMAND, "serve", config_file], capture_output=True, text=True, timeout=60, check=False
        )
        assert result.returncode == 2
        (line,) = result.stderr.splitlines()
        assert line.startswith(
            f"{config_file}: http.addr: cannot listen on 127.0.0.1:{taken}: Address already in use; "
        )

    def test_a_broken_login_is_refused_at_the_start(self, config_file: Path, tmp_path: Path) -> None:
        (tmp_path / "logins").write_text("bob:plain\n")
        config_file.write_text(BASE % tmp_path + f"auth: {{htpasswd: {{realm: R, path: {tmp_path}/logins}}}}\n")
        result = subprocess.run(
            [*COMMAND, "serve", config_file], capture_output=True, text=True, timeout=60, check=False
        )
        assert result.returncode == 2
        warning, fault = result.stderr.splitlines()
        assert warning.startswith(f"warning: {config_file}:3: auth.htpasswd: ")
        assert fault.startswith(f"{config_file}: {tmp_path}/logins:1: user bob has no bcrypt hash")

    @pytest.mark.parametrize("workers", ["0", "-1", "two"])
    def test_workers_are_a_positive_number(self, config_file: Path, workers: str) -> None:
        result = run("serve", config_file, "--workers", workers)
        assert result.exit_code == 2
        assert "--workers" in result.stderr


def test_what_starts_the_server_does_not_load_what_draws_tables() -> None:
    script = "import sys, registry_server.cli; print({'rich', 'registry_server.serve'} & sys.modules.keys())"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"


class TestAccessCheck:
    POLICIES = """
auth: {htpasswd: {realm: Tests, path: %s/htpasswd}}
access:
  policies:
    - {subjects: [anonymous], repositories: ["public/**"], role: reader}
    - {subjects: ["group:dev", "serviceaccount:ci:builder"], repositories: ["team/*"], role: writer}
    - {subjects: ["user:alice"], repositories: ["**"], actions: [pull, admin]}
  immutabletags:
    - {repositories: ["team/*"], semver: true}
"""

    @pytest.fixture
    def policies(self, config_file: Path) -> Path:
        (config_file.parent / "htpasswd").write_text(entry("alice", "secret", 4))
        config_file.write_text(config_file.read_text() + self.POLICIES % config_file.parent)
        return config_file

    @pytest.mark.parametrize(
        ("words", "code", "said"),
        [
            (
                ["pull", "public/a"],
                0,
                "whoever has no login may pull public/a\n  access.policies[0] grants it: anonymous",
            ),
            (["push", "public/a"], 1, "may not push public/a\n  access.policies[0] grants pull there, not push: "),
            (["pull", "team/a"], 1, "access.policies[1] grants it to others: group:dev, "),
            (["push", "team/a", "--user", "alice"], 1, "access.policies[2] grants pull+admin there, not push: "),
            (
                ["push", "team/a", "--user", "bob", "--group", "dev"],
                0,
                "user bob may push team/a\n  access.policies[1]",
            ),
            (["push", "team/a", "--serviceaccount", "ci:builder"], 0, "serviceaccount:ci:builder may push team/a"),
            (["admin", "x", "--user", "alice"], 0, "access.policies[2] grants it: user:alice: pull+admin on **"),
            (["delete", "x"], 1, "  no policy grants delete on x to anyone"),
            (["push", "team/a", "--user", "b", "--group", "dev", "--tag", "1.0.0"], 0, "tag 1.0.0 immutable: once"),
        ],
    )
    def test_it_says_who_may_what_and_why(self, policies: Path, words: list[str], code: int, said: str) -> None:
        action, repository, *more = words
        result = run("access", "check", policies, "--action", action, "--repository", repository, *more)
        assert said in result.output
        assert result.exit_code == code

    def test_for_programs(self, policies: Path) -> None:
        words = ["--action", "pull", "--repository", "public/a", "--format", "json"]
        answer = json.loads(run("access", "check", policies, *words).stdout)
        assert answer["allowed"] is True
        assert len(answer["reasons"]) == 1

    def test_without_policies_whoever_logs_in_may(self, config_file: Path) -> None:
        words = ["--action", "push", "--repository", "a"]
        assert run("access", "check", config_file, *words).exit_code == 0
        assert run("access", "check", config_file, *words[:1], "admin", *words[2:]).exit_code == 1

    @pytest.mark.parametrize(
        "words",
        [
            ["--repository", "UPPER"],
            ["--repository", "a", "--tag", "/"],
            ["--repository", "a", "--group", "dev"],
            ["--repository", "a", "--user", "a", "--serviceaccount", "a:b"],
        ],
    )
    def test_a_question_that_makes_no_sense(self, policies: Path, words: list[str]) -> None:
        assert run("access", "check", policies, "--action", "pull", *words).exit_code == 2
