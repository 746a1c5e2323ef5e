"""Where content lies: blobs by digest, uploads in progress, and the small files that metadata is made of."""

from registry_server.config import Drivers
from registry_server.storage.contract import Storage
from registry_server.storage.filesystem import FilesystemStorage
from registry_server.storage.observing import Observer, unobserved


def open_storage(settings: Drivers, *, observe: Observer = unobserved) -> Storage:
    """The driver that is configured."""
    if settings.filesystem is not None:
        root = str(settings.filesystem.rootdirectory)
        return FilesystemStorage(root, max_threads=settings.filesystem.maxthreads, observe=observe)
    from registry_server.storage.objectstore.storage import open_bucket

    return open_bucket(settings, observe=observe)
