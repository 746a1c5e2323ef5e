"""A server of S3's protocol in the cluster, with an empty bucket."""

from pathlib import Path
from typing import Any, Final

from tests.e2e.harness.namespaces import RESTRICTED, Namespace
from tests.fixtures.images import Programs, make_docker_archive
from tests.toolchain.catalog import ARCH

KEY, SECRET, PORT = "backup-key-id", "backup-secret-key", 7070
NAME: Final = "s3"
BUCKET: Final = "backups"


def serve_bucket(namespace: Namespace, versitygw: str, busybox_image: str, folder: Path) -> dict[str, Any]:
    """Starts it, and returns how a Registry's spec names the bucket. It keeps what it has as long as its pod lives."""
    archive = make_docker_archive(
        folder / "s3.tar",
        [Programs({"bin/versitygw": versitygw}, {})],
        name="kube.local/versitygw:1",
        platform=f"linux/{ARCH}",
    )
    image = namespace.cluster.load_images(archive)[0]
    data = {"name": "data", "mountPath": "/data"}
    credentials = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    environment = {"ROOT_ACCESS_KEY": KEY, "ROOT_SECRET_KEY": SECRET}
    server = {
        "name": "main",
        "image": image,
        "command": ["/bin/versitygw", "--port", f":{PORT}", "--region", "us-east-1", "posix", "/data"],
        "env": [{"name": name, "value": value} for name, value in environment.items()],
        "ports": [{"containerPort": PORT}],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
        "securityContext": RESTRICTED,
        "volumeMounts": [data],
    }
    maker = {
        "name": "bucket",
        "image": busybox_image,
        "command": ["mkdir", "/data/" + BUCKET],
        "securityContext": RESTRICTED,
        "volumeMounts": [data],
    }
    spec = {
        "initContainers": [maker],
        "containers": [server],
        "volumes": [{"name": "data", "emptyDir": {}}],
        "securityContext": {"fsGroup": RESTRICTED["runAsUser"]},
        "terminationGracePeriodSeconds": 0,
    }
    ports = [{"port": PORT}]
    namespace.apply(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": NAME, "labels": {"app": NAME}}, "spec": spec},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": NAME},
            "spec": {"selector": {"app": NAME}, "ports": ports},
        },
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": NAME}, "stringData": credentials},
    )
    namespace.wait(f"pod/{NAME}", "condition=Ready")
    endpoint = f"http://{NAME}.{namespace.name}.svc:{PORT}"
    return {"bucket": BUCKET, "endpoint": endpoint, "forcePathStyle": True, "credentials": {"name": NAME}}
