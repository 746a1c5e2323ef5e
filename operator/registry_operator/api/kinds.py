"""The kinds of objects Regatta reads and writes, as the API server addresses them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object."""

    api_version: str
    name: str
    plural: str
    namespaced: bool = True


GROUP = "regatta.dev"
VERSION = "v1alpha1"

REGISTRY = Kind(f"{GROUP}/{VERSION}", "Registry", "registries")
REGISTRY_BACKUP = Kind(f"{GROUP}/{VERSION}", "RegistryBackup", "registrybackups")

CONFIG_MAP = Kind("v1", "ConfigMap", "configmaps")
DEPLOYMENT = Kind("apps/v1", "Deployment", "deployments")
NETWORK_POLICY = Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
PERSISTENT_VOLUME_CLAIM = Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
SECRET = Kind("v1", "Secret", "secrets")
SERVICE = Kind("v1", "Service", "services")
STORAGE_CLASS = Kind("storage.k8s.io/v1", "StorageClass", "storageclasses", namespaced=False)
SERVICE_ACCOUNT = Kind("v1", "ServiceAccount", "serviceaccounts")

CHILDREN = (
    SERVICE_ACCOUNT,
    SECRET,
    CONFIG_MAP,
    PERSISTENT_VOLUME_CLAIM,
    SERVICE,
    NETWORK_POLICY,
    DEPLOYMENT,
    REGISTRY_BACKUP,
)
"""What a Registry may have, in the order of applying. Claims and backups outlive it: they have no owner."""
