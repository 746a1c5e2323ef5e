"""Error bodies, as the distribution specification has them: `{"errors": [{"code", "message", "detail"}]}`."""

import json
import logging
import math
from typing import Any, Final

from registry_server.http.message import Response
from registry_server.registry import errors
from registry_server.storage.contract import StorageError, StorageFull

logger = logging.getLogger(__name__)

STATUS: Final[dict[type[errors.RegistryError], int]] = {
    errors.BlobUnknown: 404,
    errors.BlobUploadInvalid: 400,
    errors.BlobUploadUnknown: 404,
    errors.DigestInvalid: 400,
    errors.ManifestBlobUnknown: 400,
    errors.ManifestInvalid: 400,
    errors.ManifestTooLarge: 413,
    errors.ManifestUnknown: 404,
    errors.NameInvalid: 400,
    errors.NameUnknown: 404,
    errors.TagInvalid: 400,
    errors.SizeInvalid: 400,
    errors.PaginationNumberInvalid: 400,
    errors.RangeInvalid: 416,
    errors.Unauthorized: 401,
    errors.Denied: 403,
    errors.Unsupported: 405,
    errors.JobUnknown: 404,
    errors.JobOccupied: 409,
    errors.TooManyRequests: 429,
    errors.Unavailable: 503,
}


def error_response(error: Exception) -> Response:
    """How a request ends that raised. What is nobody's fault but ours is logged, and its details stay here."""
    match error:
        case errors.RegistryError():
            response = _response(STATUS[type(error)], error.code, str(error), error.detail)
            if error.retry_after is not None:
                response.headers.append(("retry-after", str(math.ceil(error.retry_after))))
            return response
        case StorageFull():
            logger.error("storage is full: %s", error)
            return _response(507, "UNKNOWN", "the registry's storage is full")
        case StorageError() | OSError():
            logger.error("storage failed: %s", error)
            response = _response(503, "UNAVAILABLE", "the registry's storage is not available")
            response.headers.append(("retry-after", "5"))
            return response
        case _:
            logger.error("a request failed", exc_info=error)
            return _response(500, "UNKNOWN", "internal error; the server's log has the details under this request's id")


def _response(status: int, code: str, message: str, detail: Any = None) -> Response:
    body: dict[str, Any] = {"code": code, "message": message}
    if detail is not None:
        body["detail"] = detail
    return Response(
        status, [("content-type", "application/json")], json.dumps({"errors": [body]}, ensure_ascii=False).encode()
    )
