"""distribution's layout on a POSIX file system."""

from registry_server.storage.filesystem.storage import FilesystemStorage

__all__ = ["FilesystemStorage"]
