"""The checks of `health` beside that of the storage, behind `/readyz`."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.fixtures.processes import free_port
from tests.server.conftest import Serve
from tests.server.live import LiveRegistry, until
from tests.server.receiver import Receiver

OFTEN = {"interval": "50ms"}


def await_status(registry: LiveRegistry, status: int) -> dict[str, Any]:
    until(lambda: registry.debug("/readyz").status_code == status, f"/readyz says {status}")
    return dict(registry.debug("/readyz").json())


def test_a_file_takes_the_server_out_of_service(serve: Serve, tmp_path: Path) -> None:
    file = tmp_path / "down"
    registry = serve({"health": {"file": [{"file": str(file), **OFTEN}]}})
    file.touch()
    assert await_status(registry, 503) == {"status": "unavailable", "file": "the file exists"}
    assert registry.client().get("/readyz").status_code == 503
    file.unlink()
    assert await_status(registry, 200) == {"status": "ok"}
    assert f"the file check of {file} failed 1 time(s) in a row: the file exists" in registry.messages()


def test_another_server_must_answer_as_it_should(serve: Serve) -> None:
    with Receiver().listening() as receiver:
        receiver.answer = lambda _: 204
        check = {"uri": f"{receiver.url}?token=s3cret", "headers": {"X-Token": ["s3cret"]}, "statuscode": 204, **OFTEN}
        registry = serve({"health": {"http": [{**check, "threshold": 2}]}})
        receiver.answer = lambda _: 500
        assert await_status(registry, 503)["http"] == "it answers 500 rather than 204"
        receiver.answer = lambda _: 204
        await_status(registry, 200)
        assert {one.headers["x-token"] for one in receiver.deliveries} == {"s3cret"}
    assert "can't be asked" in await_status(registry, 503)["http"]
    assert "s3cret" not in registry.log.read_text()


def test_a_server_must_take_connections(serve: Serve) -> None:
    port = free_port()
    with _listening(port):
        registry = serve({"health": {"tcp": [{"addr": f"127.0.0.1:{port}", **OFTEN}]}})
    assert await_status(registry, 503)["tcp"]
    with _listening(port):
        await_status(registry, 200)


def test_without_the_check_of_the_storage_its_faults_do_not_count(serve: Serve) -> None:
    registry = serve({"health": {"storagedriver": {"enabled": False}}})
    registry.data.rename(registry.data.with_name("away"))
    registry.data.touch()
    assert registry.debug("/readyz").status_code == 200


@contextmanager
def _listening(port: int) -> Iterator[None]:
    with socket.create_server(("127.0.0.1", port), backlog=128):
        yield
