"""What can be wrong with a request, by the codes of the distribution specification.

    RegistryError
    ├── BlobUnknown, BlobUploadUnknown, ManifestUnknown, NameUnknown        what was asked for is not there
    ├── BlobUploadInvalid, DigestInvalid, ManifestInvalid, ManifestBlobUnknown,
    │   NameInvalid, TagInvalid, SizeInvalid, PaginationNumberInvalid       the request can't be right
    ├── RangeInvalid                                                        a range that isn't there or doesn't follow
    ├── ManifestTooLarge                                                    more than a manifest may have
    ├── Unauthorized, Denied                                                who asks may not
    ├── Unsupported                                                         switched off or unknown here
    ├── JobUnknown, JobOccupied                                             no such job, or not now
    └── TooManyRequests, Unavailable                                        later, perhaps

Source: distribution-spec "Error Codes"; those beyond it are distribution's, and of jobs ours.
"""

from typing import Any, ClassVar


class RegistryError(Exception):
    """A request that ends in an error a client can read."""

    code: ClassVar[str]
    message: ClassVar[str]

    def __init__(self, message: str | None = None, detail: Any = None, *, retry_after: float | None = None) -> None:
        super().__init__(message or self.message)
        self.detail = detail
        self.retry_after = retry_after
        """Seconds after which trying again makes sense."""


class BlobUnknown(RegistryError):
    code, message = "BLOB_UNKNOWN", "blob unknown to registry"


class BlobUploadInvalid(RegistryError):
    code, message = "BLOB_UPLOAD_INVALID", "blob upload invalid"


class BlobUploadUnknown(RegistryError):
    code, message = "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry"


class DigestInvalid(RegistryError):
    code, message = "DIGEST_INVALID", "provided digest did not match uploaded content"


class ManifestBlobUnknown(RegistryError):
    code, message = "MANIFEST_BLOB_UNKNOWN", "manifest references a blob unknown to the repository"


class ManifestInvalid(RegistryError):
    code, message = "MANIFEST_INVALID", "manifest invalid"


class ManifestTooLarge(RegistryError):
    code, message = "SIZE_INVALID", "manifest too large"


class ManifestUnknown(RegistryError):
    code, message = "MANIFEST_UNKNOWN", "manifest unknown to registry"


class NameInvalid(RegistryError):
    code, message = "NAME_INVALID", "invalid repository name"


class NameUnknown(RegistryError):
    code, message = "NAME_UNKNOWN", "repository name not known to registry"


class TagInvalid(RegistryError):
    code, message = "TAG_INVALID", "invalid tag name"


class SizeInvalid(RegistryError):
    code, message = "SIZE_INVALID", "provided length did not match content length"


class PaginationNumberInvalid(RegistryError):
    code, message = "PAGINATION_NUMBER_INVALID", "invalid number of results requested"


class RangeInvalid(RegistryError):
    code, message = "RANGE_INVALID", "invalid content range"


class Unauthorized(RegistryError):
    code, message = "UNAUTHORIZED", "authentication required"


class Denied(RegistryError):
    code, message = "DENIED", "requested access to the resource is denied"


class Unsupported(RegistryError):
    code, message = "UNSUPPORTED", "the operation is unsupported"


class JobUnknown(RegistryError):
    code, message = "JOB_UNKNOWN", "there is no such job"


class JobOccupied(RegistryError):
    code, message = "JOB_OCCUPIED", "another job is at work"


class TooManyRequests(RegistryError):
    code, message = "TOOMANYREQUESTS", "too many requests"


class Unavailable(RegistryError):
    code, message = "UNAVAILABLE", "what the registry needs to answer is not available"
