"""`helm test`: has the operator judge a Registry, and so proves CRDs, permissions, leader and reconcile in one.

The Registry names a volume that does not exist. The operator has to say that in its status, and makes nothing for it.
Usage: check.py NAMESPACE NAME SECONDS, as the pod's ServiceAccount, whose folder CREDENTIALS may move.
"""

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

CREDENTIALS = Path(os.environ.get("CREDENTIALS", "/var/run/secrets/kubernetes.io/serviceaccount"))
EXPECTED = "ClaimMissing"


class Refused(Exception):
    """The API server's answer was an error; `code` is HTTP's."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def request(method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Ask the API server. Raises Refused, OSError."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    host = f"[{host}]" if ":" in host else host
    sent = urllib.request.Request(
        f"https://{host}:{port}/apis/regatta.dev/v1alpha1/namespaces/{path}",
        method=method,
        data=json.dumps(body).encode() if body else None,
        headers={
            "Authorization": f"Bearer {(CREDENTIALS / 'token').read_text()}",
            "Content-Type": "application/json",
        },
    )
    trust = ssl.create_default_context(cafile=CREDENTIALS / "ca.crt")
    # The API server is never behind the proxy that HTTPS_PROXY names.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust))
    try:
        with opener.open(sent, timeout=10) as answer:
            return dict(json.load(answer))
    except urllib.error.HTTPError as error:
        with error:
            raise Refused(error.code, error.read().decode(errors="replace")) from error


def delete(namespace: str, name: str) -> None:
    """Delete the Registry if it is there."""
    try:
        request("DELETE", f"{namespace}/registries/{name}")
    except Refused as error:
        if error.code != 404:
            raise


def verdict(namespace: str, name: str, deadline: float) -> str | None:
    """Why the operator calls the Registry degraded; None if it has not said so by the deadline."""
    while time.monotonic() < deadline:
        status = request("GET", f"{namespace}/registries/{name}").get("status", {})
        for condition in status.get("conditions", []):
            if condition["type"] == "Degraded" and condition["status"] == "True":
                return str(condition["reason"])
        time.sleep(0.5)
    return None


def check(namespace: str, name: str, seconds: float) -> str | None:
    """What is wrong, or None."""
    delete(namespace, name)  # what a test before this one left when it was killed
    registry = {
        "apiVersion": "regatta.dev/v1alpha1",
        "kind": "Registry",
        "metadata": {"name": name},
        "spec": {"storage": {"filesystem": {"existingClaim": f"{name}-that-does-not-exist"}}},
    }
    request("POST", f"{namespace}/registries", registry)
    try:
        reason = verdict(namespace, name, time.monotonic() + seconds)
    finally:
        delete(namespace, name)
    if reason is None:
        return f"the operator did not take up Registry {namespace}/{name} within {seconds:.0f} s: look at its log"
    if reason != EXPECTED:
        return f"the operator says {reason} of Registry {namespace}/{name}, and not {EXPECTED}: look at its log"
    return None


def main() -> int:
    """Exit code 0 if the operator works."""
    namespace, name, seconds = sys.argv[1:]
    try:
        fault = check(namespace, name, float(seconds))
    except (Refused, OSError) as error:
        fault = f"the API server refuses or is out of reach: {error}"
    sys.stdout.write(f"FAILED: {fault}\n" if fault else f"ok: the operator looks after Registries in {namespace}\n")
    return 1 if fault else 0


if __name__ == "__main__":
    sys.exit(main())
