"""distribution's layout on a POSIX file system."""

from registry_server.storage.filesystem.storage import FilesystemStorage
from registry_server.storage.filesystem.threads import Observer

__all__ = ["FilesystemStorage", "Observer"]
