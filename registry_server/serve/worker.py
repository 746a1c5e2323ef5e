"""A worker: one of the processes that answer requests.

serve ─► take leave ─► drain
  └► in the background: health, metrics, the access log, files that change, uploads nobody finished, events
"""

import asyncio
import ctypes
import logging
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import uvloop

from registry_server.auth.immutable import TagRules
from registry_server.auth.logins import Logins
from registry_server.auth.policy import AccessPolicy
from registry_server.config import Config, ConfigError, FollowedConfig, UploadPurging
from registry_server.health import ServerHealth
from registry_server.http.app import App, DebugApp
from registry_server.http.engine import Listener
from registry_server.http.handlers import Handler, Handlers
from registry_server.http.jobs import JobHandlers, JobsPage
from registry_server.http.reporter import Reporter
from registry_server.http.routes import Resource
from registry_server.http.security import Security
from registry_server.http.token import TokenEndpoint
from registry_server.jobs.occupancy import Presence
from registry_server.jobs.recurring import Job
from registry_server.jobs.transfer import not_imported
from registry_server.log import AccessLog
from registry_server.metadata.drivers import open_metadata
from registry_server.metrics import Metrics
from registry_server.notifications import Recorder, Source
from registry_server.registry import Registry
from registry_server.registry.lists import Pages
from registry_server.registry.manifest import understand
from registry_server.registry.quotas import Limit
from registry_server.registry.rules import Rules
from registry_server.serve.bootstrap import bootstrapped
from registry_server.serve.jobs import Jobs
from registry_server.serve.preparation import open_journal, read_certificate
from registry_server.serve.schedule import Schedule
from registry_server.serve.shared import Shared
from registry_server.serve.usage import MEASURE_EVERY, measured
from registry_server.storage import open_storage
from registry_server.storage.contract import StorageError

if TYPE_CHECKING:
    from registry_server.proxy import PullThrough

logger = logging.getLogger(__name__)

WATCH_EVERY: Final = 1.0
"""Seconds between looks at files that may change: certificates, logins and the configuration."""
FLUSH_EVERY: Final = 0.1
"""Seconds a line of the access log waits for others at most."""
PUBLISH_EVERY: Final = 1.0
"""Seconds after which a scrape by way of another worker sees what this one has counted."""
MOVE_ON: Final = 5.0
"""Seconds that clients of a replaced listener have to come back on a new connection before idle ones are closed."""
STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


def work(shared: Shared, index: int) -> None:
    """A worker's process."""
    # Ctrl-C reaches the whole foreground group; the first process decides when a worker ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    _end_with_parent()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(Worker(shared, index).serve())


class Worker:
    """One process that answers requests."""

    def __init__(self, shared: Shared, index: int) -> None:
        config = shared.config
        self._shared = shared
        self._index = index
        self._metrics = Metrics(shared.metrics_directory)
        self._storage = open_storage(config.storage, observe=self._metrics.storage)
        self._metadata = open_metadata(config.metadata, self._storage, understand)
        self._health = ServerHealth(self._storage, self._metadata, config.health)
        self._logins = Logins.from_config(config, shared.token_key)
        self._followed = FollowedConfig(shared.config_file, os.environ, config)
        self._followed.reload_if_changed()  # it may have changed since the first process read it
        self._access_log = None if config.log.accesslog.disabled else AccessLog(config.log)
        pages = Pages(config.tags.maxtags, config.catalog.maxentries)
        self._registry = Registry.over(
            self._storage,
            self._metadata,
            rules=Rules.from_config(config),
            pages=pages,
            grace=config.garbagecollection.grace,
        )
        self._pull_through = self._open_pull_through(pages)
        self._journal = open_journal(config)
        self._recorder = None if self._journal is None else Recorder(self._journal, config.notifications, self._metrics)
        self._schedule = Schedule(self._storage.aside, shared.config_file, lambda: Job.of(self._followed.current))
        self._jobs = Jobs(self._storage.aside, shared.config_file, lambda: self._followed.current)
        self._app = self._build_app()
        self._presence = Presence(self._storage.aside, f"{shared.instance}-{index}")
        self._certificate = read_certificate(config)
        self._retired: dict[Listener, asyncio.Task[None]] = {}
        """Listeners with an old certificate, and what closes them."""

    async def serve(self) -> None:
        """Serve until SIGTERM."""
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        await self._health.check()
        self._health.waiting = "the server is starting"
        debug = self._listen_debug()
        if not await _unless(stop, self._begin()):
            if debug is not None:
                debug.retire()
            await self._presence.leave()
            return
        self._listener = self._listen()
        self._health.waiting = None
        background = [asyncio.create_task(work) for work in self._background()]
        await stop.wait()
        await self._take_leave()
        await self._drain(debug)
        await self._presence.leave()
        await self._logins.close()
        for task in background:
            task.cancel()
        if self._pull_through is not None:
            await self._pull_through.close()
        if self._recorder is not None:
            await self._recorder.close()
        await self._metadata.close()
        self._publish()

    async def _begin(self) -> None:
        """Say in the storage that a server uses it, wait for a job that has it for itself, and fill a new registry."""
        try:
            await self._presence.announce()
        except StorageError as error:
            logger.warning("could not say in the storage that a server uses it; trying again: %s", error)
        if self._shared.config.bootstrap is not None:
            present = asyncio.create_task(self._presence.keep())
            leads = self._index == 0
            try:
                await bootstrapped(self._storage.aside, self._shared.config_file, self._health, leads=leads)
            finally:
                present.cancel()

    def _build_app(self) -> App:
        config = self._followed.current
        prefix = config.http.prefix.rstrip("/")
        self._security = Security(
            authenticator=self._logins.authenticator,
            policy=AccessPolicy.from_config(config),
            realm=config.auth.htpasswd.realm if config.auth.htpasswd else "Regatta",
            failed=self._metrics.auth_failure,
            token_server=config.auth.token,
            trusted_proxies=config.http.trustedproxies,
            base_url=config.http.host.rstrip("/"),
            prefix=prefix,
        )
        self._apply(config)
        return App(
            handlers=self._handlers(config),
            security=self._security,
            token=TokenEndpoint(self._security, self._logins.tokens),
            metrics=self._metrics,
            access_log=self._access_log,
            health=self._health,
            headers=[(name.lower(), value) for name, values in config.http.headers.items() for value in values],
            prefix=prefix,
            namespaces=config.proxy.namespaces,
            reporter=self._reporter(prefix),
        )

    def _handlers(self, config: Config) -> dict[tuple[Resource, str], Handler]:
        base_url = "" if config.http.relativeurls else config.http.host.rstrip("/")
        read_only = config.storage.maintenance.readonly.enabled
        # A cache that may not write serves what it has.
        through = None if read_only else self._pull_through
        handlers = Handlers(
            self._registry if through is None else through.registry,
            base_url=f"{base_url}{config.http.prefix.rstrip('/')}",
            delete_enabled=config.storage.delete.enabled,
            read_only=read_only,
        )
        return handlers.table() | JobHandlers(self._jobs, read_only=read_only).table()

    def _open_pull_through(self, pages: Pages) -> "PullThrough | None":
        settings = self._shared.config.proxy
        if not settings.remotes:
            return None
        from registry_server.proxy import PullThrough  # aiohttp is much to load for nothing

        return PullThrough(
            settings,
            self._storage,
            self._metadata,
            local=self._registry.manifests,
            quotas=self._registry.quotas,
            holds=self._registry.holds,
            pages=pages,
            spool=self._shared.spool,
            metrics=self._metrics,
        )

    def _read_only(self) -> bool:
        return self._followed.current.storage.maintenance.readonly.enabled

    def _reporter(self, prefix: str) -> Reporter | None:
        if self._recorder is None:
            return None
        config = self._shared.config
        return Reporter(
            registry=self._registry,
            recorder=self._recorder,
            source=Source(f"{socket.gethostname()}:{config.http.addr.port}", self._shared.instance),
            base_url=config.http.host.rstrip("/"),
            prefix=prefix,
            with_references=config.notifications.events.includereferences,
        )

    def _listen(self) -> Listener:
        settings = self._shared.config.http
        http2 = not settings.http2.disabled and (settings.tls is not None or settings.h2c.enabled)
        return Listener(self._app, self._shared.api, certificate=self._certificate, http2=http2)

    def _listen_debug(self) -> Listener | None:
        settings = self._shared.config.http.debug
        if settings is None or self._shared.debug is None:
            return None
        path = settings.prometheus.path if settings.prometheus.enabled else None
        app = DebugApp(self._health, self._metrics, path, JobsPage(self._jobs))
        return Listener(app, self._shared.debug, certificate=None, http2=False)

    def _background(self) -> list[Coroutine[Any, Any, None]]:
        work = [
            self._health.watch(),
            self._flush_log(),
            self._publish_metrics(),
            self._watch_files(),
            self._presence.keep(),
        ]
        purging = self._shared.config.storage.maintenance.uploadpurging
        if self._index == 0 and purging.enabled:
            work.append(self._purge_uploads(purging))
        if self._index == 0 and self._shared.config.metadata.sql is not None:
            work.append(self._look_for_what_was_not_imported())
        if self._index == 0:
            work.append(self._measure_usage())
            work.append(self._schedule.run(read_only=self._read_only))
            work.append(self._schedule.measure(self._metrics.measured))
        if self._index == 0 and self._pull_through is not None:
            work.append(self._pull_through.housekeep(paused=self._read_only))
        if self._index == 0 and self._journal is not None:
            from registry_server.notifications.courier import Couriers

            work.append(Couriers(self._journal, self._shared.config.notifications, self._metrics).run())
        return work

    async def _flush_log(self) -> None:
        while self._access_log is not None:
            await asyncio.sleep(FLUSH_EVERY)
            self._access_log.flush()

    async def _publish_metrics(self) -> None:
        while True:
            await asyncio.sleep(PUBLISH_EVERY)
            if self._metrics.changed:
                self._metrics.publish()

    async def _look_for_what_was_not_imported(self) -> None:
        """A new database beside a storage in use shows nobody what that holds, as if it were lost."""
        with suppress(StorageError):  # health says so
            if await not_imported(self._storage, self._metadata):
                logger.warning(
                    "the database knows no repository, but the storage has link files of some, which nobody can pull "
                    "so: stop the server and run `registry-server metadata import %s`",
                    self._shared.config_file,
                )

    async def _purge_uploads(self, settings: UploadPurging) -> None:
        while True:
            try:
                if not self._read_only():
                    await self._registry.uploads.purge(age=settings.age, dry_run=settings.dryrun)
            except StorageError as error:
                logger.warning("could not purge unfinished uploads: %s", error)
            await asyncio.sleep(settings.interval.total_seconds())

    async def _measure_usage(self) -> None:
        while True:
            try:
                self._metrics.measured(await measured(self._registry.quotas))
            except StorageError as error:
                logger.warning("could not measure what is used of the quotas: %s", error)
            await asyncio.sleep(MEASURE_EVERY)

    def _publish(self) -> None:
        if self._access_log is not None:
            self._access_log.flush()
        self._metrics.publish()

    async def _watch_files(self) -> None:
        while True:
            await asyncio.sleep(WATCH_EVERY)
            self._logins.reload_if_changed()
            if await asyncio.to_thread(self._followed.reload_if_changed):
                self._apply(self._followed.current)
                self._app.handlers = self._handlers(self._followed.current)
            self._reload_certificate()

    def _apply(self, config: Config) -> None:
        """Put in force what is followed while serving."""
        self._registry.quotas.limits = tuple(map(Limit.of, config.quotas))
        self._security.policy = AccessPolicy.from_config(config)
        rules = TagRules.from_config(config)
        self._registry.manifests.immutable = rules.immutable if rules else None
        self._schedule.wake()

    def _reload_certificate(self) -> None:
        """Serve a changed certificate from a new listener, and let the old one finish what it has."""
        try:
            certificate = read_certificate(self._shared.config)
        except ConfigError as error:
            # Half of a pair was replaced so far, perhaps; what is served goes on.
            logger.warning("%s; serving the previous certificate", error)
            return
        if certificate == self._certificate:
            return
        self._certificate = certificate
        old, self._listener = self._listener, self._listen()
        self._retired[old] = asyncio.create_task(self._retire(old))
        logger.info("the certificate changed; new connections get the new one")

    async def _retire(self, listener: Listener) -> None:
        """Clients with a connection open meet `Connection: close` at their next request, and so never a closed one."""
        listener.retire()
        await asyncio.sleep(MOVE_ON)
        await listener.close()
        del self._retired[listener]

    async def _take_leave(self) -> None:
        """Clients go elsewhere between two requests; those that were sent here a moment ago are served."""
        self._app.leaving = True
        await asyncio.sleep(self._shared.config.shutdown.notice.total_seconds())

    async def _drain(self, debug: Listener | None) -> None:
        self._listener.retire()
        if debug is not None:
            debug.retire()
        self._shared.stop_listening()
        timeout = self._shared.config.http.draintimeout.total_seconds()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await asyncio.gather(self._listener.close(), *(retired.close() for retired in self._retired))


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do something to its end; False when told to stop meanwhile. Raises what it does."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not working.done():
        working.cancel()
        await asyncio.wait((working,))
        return False
    working.result()
    return True


def _end_with_parent() -> None:
    """Ask the kernel to end this worker when the first process is killed without a chance to do so (prctl(2))."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, signal.SIGTERM)
    parent = multiprocessing.parent_process()
    if parent is not None and os.getppid() != parent.pid:
        sys.exit("the first process has ended already")
