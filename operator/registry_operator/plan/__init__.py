"""Pure functions from a resource and the observed facts to the children it shall have."""

from registry_operator.plan.configuration import server_config
from registry_operator.plan.facts import ArchiveSecrets, Facts, KeyPair, Login, OwnTls
from registry_operator.plan.registry import plan_registry

__all__ = ["ArchiveSecrets", "Facts", "KeyPair", "Login", "OwnTls", "plan_registry", "server_config"]
