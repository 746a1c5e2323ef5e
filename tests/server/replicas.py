"""Several servers over one storage, asked in turn at random, as behind a load balancer without stickiness."""

import itertools
import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import httpx

from tests.server.live import LiveRegistry


class _AtRandom(httpx.BaseTransport):
    """Sends each request to one of several servers."""

    def __init__(self, registries: Sequence[LiveRegistry], seed: int) -> None:
        self._addresses = [httpx.URL(registry.url) for registry in registries]
        self._random = random.Random(seed)  # noqa: S311
        self._transport = httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        to = self._random.choice(self._addresses)
        request.url = request.url.copy_with(host=to.host, port=to.port)
        request.headers["host"] = to.netloc.decode()
        return self._transport.handle_request(request)

    def close(self) -> None:
        self._transport.close()


class Replicas:
    """Servers that share a storage."""

    def __init__(self, *registries: LiveRegistry) -> None:
        self.registries = registries
        self.clients = ExitStack()
        self._seeds = itertools.count()

    def client(self) -> httpx.Client:
        """A client that goes to whichever."""
        transport = _AtRandom(self.registries, next(self._seeds))
        client = httpx.Client(base_url=self.registries[0].url, transport=transport, timeout=60)
        return self.clients.enter_context(client)


@contextmanager
def replicas_of(*registries: LiveRegistry) -> Iterator[Replicas]:
    """Closes its clients at the end."""
    replicas = Replicas(*registries)
    with replicas.clients:
        yield replicas
