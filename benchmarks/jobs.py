"""How long pulls take while a job runs, beside how long they take while none does: `python -m benchmarks.jobs`.

A registry with thousands of images is pulled from at a set rate, by few connections: what is measured is how long an
answer takes, not how many there can be. Idle and busy rounds take turns, so that what else the machine does meets both.
"""

import itertools
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from tests.server.content import Repository, digest_of
from tests.server.live import LiveRegistry, serving

JOBS = {
    "garbage-collect": ("garbage-collect", "--quiet"),
    "backup": ("backup", "run"),
    "scrub": ("scrub",),
}


@click.command()
@click.option("--images", default=1000, show_default=True, help="Images in the registry, with two layers each.")
@click.option("--rate", default=200, show_default=True, help="Requests a second.")
@click.option("--seconds", default=10.0, show_default=True, help="Length of a round.")
@click.option("--rounds", default=5, show_default=True, help="Of each kind.")
@click.option("--job", "names", multiple=True, type=click.Choice(list(JOBS)), help="[default: all]")
def main(*, images: int, rate: int, seconds: float, rounds: int, names: tuple[str, ...]) -> None:
    """Measure pulls beside jobs, and print a line a job: medians over the rounds, in milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "archive"
        archive.mkdir()
        settings = {
            "backup": {"destination": {"filesystem": {"rootdirectory": str(archive)}}},
            "garbagecollection": {"grace": "1h"},
        }
        with serving(Path(folder) / "registry", settings, workers=2, forked=False) as registry:
            paths = _fill(registry, images)
            click.echo(f"{images} images, {rate} requests/s, {rounds} rounds of {seconds:g} s, {os.cpu_count()} CPUs")
            click.echo(f"{'':16}{'p50 idle':>10}{'busy':>8}{'p99 idle':>10}{'busy':>8}{'ratio':>8}")
            for name in names or JOBS:
                idle, busy = _measure(registry, name, paths, rate, seconds, rounds)
                (p50, p99), (p50_busy, p99_busy) = _percentiles(idle), _percentiles(busy)
                ratio = p99_busy / p99
                click.echo(f"{name:16}{p50:10.2f}{p50_busy:8.2f}{p99:10.2f}{p99_busy:8.2f}{ratio:8.2f}")


def _fill(registry: LiveRegistry, images: int) -> list[str]:
    """Push images; returns what is pulled: manifests by tag, and layers."""
    paths = []
    with registry.client() as client:
        for number in range(images):
            repository = Repository(client, f"team-{number % 50}/app")
            layers = [os.urandom(4096), os.urandom(100_000)]
            repository.push_image(f"v{number}", layers=layers)
            paths += [f"{repository.path}/manifests/v{number}", f"{repository.path}/blobs/{digest_of(layers[1])}"]
    return paths


def _measure(
    registry: LiveRegistry, name: str, paths: Sequence[str], rate: int, seconds: float, rounds: int
) -> tuple[list[list[float]], list[list[float]]]:
    """The latencies of each idle and of each busy round, in milliseconds."""
    idle, busy = [], []
    for _ in range(rounds):
        idle.append(_pull(registry, paths, rate, seconds))
        with _running(registry, name):
            busy.append(_pull(registry, paths, rate, seconds))
    return idle, busy


@contextmanager
def _running(registry: LiveRegistry, name: str) -> Iterator[None]:
    """The job again and again, as a server runs it."""
    program = """
import asyncio, sys
from pathlib import Path
from registry_server.serve.command import registry_server
async def forever():
    while True:
        await registry_server(sys.argv[1], sys.argv[3:], Path(sys.argv[2]))
asyncio.run(forever())
"""
    words: list[Any] = [sys.executable, "-c", program, name, registry.config, *JOBS[name]]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)  # noqa: S603
    try:
        time.sleep(1)  # until it is under way
        yield
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def _pull(registry: LiveRegistry, paths: Sequence[str], rate: int, seconds: float) -> list[float]:
    connections = 4
    with ThreadPoolExecutor(connections) as pool:
        parts = [
            pool.submit(_pull_one, registry, paths[number::connections], rate / connections, seconds)
            for number in range(connections)
        ]
        return [latency for part in parts for latency in part.result()]


def _pull_one(registry: LiveRegistry, paths: Sequence[str], rate: float, seconds: float) -> list[float]:
    """One connection that asks at set times, whether or not the answer before was late."""
    latencies = []
    with socket.create_connection((registry.host, registry.port), timeout=30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answers = connection.makefile("rb")
        began = time.perf_counter()
        for number, path in enumerate(itertools.cycle(paths)):
            due = began + number / rate
            if due > began + seconds:
                return latencies
            if (wait := due - time.perf_counter()) > 0:
                time.sleep(wait)
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n".encode())
            _answer(answers)
            latencies.append((time.perf_counter() - due) * 1000)
    return latencies


def _answer(answers: Any) -> None:
    status = answers.readline()
    assert b" 200 " in status, status  # noqa: S101
    length = 0
    while (line := answers.readline()) != b"\r\n":
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    assert len(answers.read(length)) == length  # noqa: S101


def _percentiles(rounds: Sequence[Sequence[float]]) -> tuple[float, float]:
    """The medians over rounds of p50 and p99."""
    cuts = [statistics.quantiles(one, n=100) for one in rounds]
    return statistics.median(one[49] for one in cuts), statistics.median(one[98] for one in cuts)


if __name__ == "__main__":
    main()
