"""The `Registry`: one container registry. These types are the CRD; `crd.py` writes it from them."""

from datetime import datetime
from importlib.metadata import version
from typing import Annotated, ClassVar, Final, Literal

from pydantic import ConfigDict, Field, WithJsonSchema

from registry_operator.api.jobs import Archive, Backup, Bootstrap, GarbageCollection, Retention, Scrub
from registry_operator.api.kinds import REGISTRY, Kind
from registry_operator.api.model import Matching, Model, OneOf, Opaque, Resource, Rule
from registry_operator.api.values import AS_SET, ObjectName, QuantityText, Repositories, SecretReference, map_by

VERSION: Final = version("regatta")
"""Of the operator, and of the registry server that it runs unless `spec.image` says otherwise."""

DEFAULT_SIZE: Final = "10Gi"
DEFAULT_ACCESS_MODES: Final = ("ReadWriteOnce",)

ResourceQuantity = Annotated[
    int | str,
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": True,
            "pattern": r"^[0-9]+(\.[0-9]+)?([numkKMGTPE]i?|[eE][0-9]+)?$",
        }
    ),
]
AddressRange = Annotated[
    str,
    Field(max_length=49),
    Matching(r"[0-9a-fA-F:.]+/[0-9]{1,3}", "must be a range of addresses, such as 192.0.2.0/24"),
]
AccessMode = Literal["ReadWriteOnce", "ReadWriteOncePod", "ReadWriteMany"]

# --- storage


class FilesystemStorage(Model):
    """Content on a PersistentVolumeClaim."""

    size: QuantityText | None = None
    """Size of the claim that is made, 10Gi unless given. It may grow where the storage class allows that, and never
    shrinks."""
    storage_class_name: Annotated[str, Field(max_length=253)] | None = None
    """Storage class of the claim that is made; the cluster's default class unless given. Fixed once set."""
    access_modes: (
        Annotated[tuple[AccessMode, ...], Field(min_length=1, max_length=3, json_schema_extra=AS_SET)] | None
    ) = None
    """Access modes of the claim that is made, [ReadWriteOnce] unless given. More than one replica needs ReadWriteMany.
    Fixed once set."""
    existing_claim: ObjectName | None = None
    """Name of a claim that exists already, with or without content, such as a volume of registry:2 or registry:3. It
    takes the place of `size`, `storageClassName` and `accessModes`, and is never changed nor deleted."""

    rules: ClassVar = (
        Rule(
            "!has(self.existingClaim) || !(has(self.size) || has(self.storageClassName) || has(self.accessModes))",
            "existingClaim brings its own size, storage class and access modes: "
            "remove size, storageClassName and accessModes, or remove existingClaim",
        ),
        Rule(
            "has(self.existingClaim) == has(oldSelf.existingClaim)"
            " && (!has(self.existingClaim) || self.existingClaim == oldSelf.existingClaim)",
            "existingClaim can't be changed: the content would stay behind on the other claim. "
            "Make a new Registry for the other claim",
        ),
        Rule(
            f"(has(self.size) ? quantity(self.size) : quantity('{DEFAULT_SIZE}'))"
            f".compareTo(has(oldSelf.size) ? quantity(oldSelf.size) : quantity('{DEFAULT_SIZE}')) >= 0",
            f"size can't shrink: a volume only grows (size is {DEFAULT_SIZE} where it isn't given)",
        ),
        Rule(
            "has(self.storageClassName) == has(oldSelf.storageClassName)"
            " && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)",
            "storageClassName can't be changed: the claim exists. "
            "Make a new Registry with the other class and copy the images",
        ),
        Rule(
            "(has(self.accessModes) ? self.accessModes : ['ReadWriteOnce'])"
            ".all(mode, mode in (has(oldSelf.accessModes) ? oldSelf.accessModes : ['ReadWriteOnce']))"
            " && (has(oldSelf.accessModes) ? oldSelf.accessModes : ['ReadWriteOnce'])"
            ".all(mode, mode in (has(self.accessModes) ? self.accessModes : ['ReadWriteOnce']))",
            "accessModes can't be changed: the claim exists. "
            "Make a new Registry with the other modes and copy the images",
        ),
    )

    @property
    def requested_size(self) -> str:
        """Of the claim that is made."""
        return self.size or DEFAULT_SIZE

    @property
    def requested_access_modes(self) -> tuple[str, ...]:
        """Of the claim that is made."""
        return self.access_modes or DEFAULT_ACCESS_MODES


class Storage(OneOf):
    """Where the registry keeps its content. Exactly one member is given."""

    filesystem: FilesystemStorage | None = None
    """A PersistentVolumeClaim, in the layout of registry:2 and registry:3. The claim outlives the Registry: deleting
    the Registry keeps the content, and a Registry of the same name finds it again."""


# --- TLS


class SelfSigned(Model):
    """A certificate authority of the Registry's own."""


class SecretCertificate(Model):
    """A certificate from a Secret."""

    name: ObjectName
    """Name of a Secret in the Registry's namespace with `tls.crt` (the certificate, then its chain) and `tls.key`, as
    PEM. It is read again when it changes, without a restart."""


class Disabled(Model):
    """Nothing."""


class Tls(OneOf):
    """How the registry is reached. Exactly one member is given."""

    self_signed: SelfSigned | None = None
    """HTTPS with a certificate authority made for this Registry. Clients trust the `ca.crt` of the ConfigMap
    `<name>-ca`. Certificates are renewed well before they expire, without a restart."""
    secret_ref: SecretCertificate | None = None
    """HTTPS with a certificate from a Secret."""
    disabled: Disabled | None = None
    """Plain HTTP. Passwords and content cross the network unencrypted: only behind something that ends TLS, or on one
    machine."""


# --- access


class Policy(Model):
    """Grants actions on repositories to subjects. What no policy grants is refused."""

    subjects: Annotated[
        tuple[
            Annotated[
                str,
                Field(max_length=261),
                Matching(
                    r"anonymous|authenticated|user:[^:\s]+",
                    "must be anonymous (everyone), authenticated (everyone who has logged in) or user:NAME",
                ),
            ],
            ...,
        ],
        Field(min_length=1, max_length=32, json_schema_extra=AS_SET),
    ]
    """Who: `anonymous` (everyone, logged in or not), `authenticated` (everyone who has logged in), `user:NAME`."""
    repositories: Repositories
    """Where: names of repositories. `*` matches within one component of a name, `**` any number of components:
    `team/**` matches `team/app` and `team/app/web`; `**` matches all."""
    role: Literal["reader", "writer", "maintainer", "admin"] | None = None
    """What, by name: `reader` pulls, `writer` pulls and pushes, `maintainer` and `admin` delete as well."""
    actions: (
        Annotated[
            tuple[Literal["pull", "push", "delete"], ...], Field(min_length=1, max_length=3, json_schema_extra=AS_SET)
        ]
        | None
    ) = None
    """What, one by one; instead of `role`."""

    rules: ClassVar = (Rule("has(self.role) != has(self.actions)", "exactly one of role and actions must be given"),)


class Htpasswd(Model):
    """Users from a Secret."""

    secret_ref: SecretReference
    """A Secret with the key `htpasswd`: one `user:hash` a line, hashes by bcrypt only (`registry-server htpasswd` makes
    them). It is read again when it changes, without a restart."""


class Access(Model):
    """Who may do what. Without users of your own, a login that may do everything is made in the Secret
    `<name>-admin`."""

    anonymous: Literal["none", "pull"] = "none"
    """What everyone may do without login: nothing, or pull from every repository (a public registry)."""
    htpasswd: Htpasswd | None = None
    """Your own users. Without `policies` each of them may do everything."""
    policies: (
        Annotated[tuple[Policy, ...], Field(max_length=64, json_schema_extra={"x-kubernetes-list-type": "atomic"})]
        | None
    ) = None
    """What your users may do. What no policy grants is refused."""

    rules: ClassVar = (
        Rule(
            "has(self.htpasswd) || !has(self.policies) || self.policies.all(policy,"
            " policy.subjects.all(subject, !subject.startsWith('user:') || subject == 'user:admin'))",
            "policies name users, but htpasswd names no Secret to find them in: give htpasswd.secretRef "
            "(only the generated login, user:admin, exists without it)",
        ),
    )


# --- the rest of the spec


class Quota(Model):
    """How much repositories may take: each that matches, or all of them together. Changes count without a restart."""

    repositories: Repositories
    """Which: names of repositories, with wildcards as in policies."""
    together: bool = False
    """Whether the limits are for all of them in sum rather than for each."""
    bytes: QuantityText | None = None
    """How much their blobs and manifests may take, such as 20Gi. What several repositories hold counts in each."""
    tags: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """How many tags they may have."""


class Service(Model):
    """The Service in front of the registry."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    """Whether the registry is reached from within the cluster alone, through a port of every node, or through a load
    balancer."""
    port: Annotated[int, Field(ge=1, le=65535)] = 5000
    """Port of the Service. 443 (80 without TLS) lets image names go without a port."""
    node_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Port of every node, for types NodePort and LoadBalancer; the cluster picks one unless given."""
    annotations: Annotated[dict[str, Annotated[str, Field(max_length=4096)]], Field(max_length=64)] | None = None
    """Annotations of the Service, such as those that a cloud's load balancer reads."""

    rules: ClassVar = (
        Rule("!has(self.nodePort) || self.type != 'ClusterIP'", "nodePort needs type NodePort or LoadBalancer"),
    )


class LabelExpression(Model):
    """A condition on a label."""

    key: Annotated[str, Field(min_length=1, max_length=317)]
    """Name of the label."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """How the label is compared with `values`."""
    values: Annotated[tuple[Annotated[str, Field(max_length=63)], ...], Field(max_length=64)] | None = None
    """What the label is compared with: given with In and NotIn alone."""

    rules: ClassVar = (
        Rule(
            "(self.operator == 'In' || self.operator == 'NotIn') == (has(self.values) && self.values.size() > 0)",
            "operators In and NotIn need values, Exists and DoesNotExist have none",
        ),
    )


class LabelSelector(Model):
    """Selects by labels. An empty one selects all."""

    match_labels: Annotated[dict[str, Annotated[str, Field(max_length=63)]], Field(max_length=64)] | None = None
    """Labels that are all there."""
    match_expressions: Annotated[tuple[LabelExpression, ...], Field(max_length=32)] | None = None
    """Conditions that all hold."""


class AddressBlock(Model):
    """A range of IP addresses."""

    cidr: AddressRange
    """The range, such as 192.0.2.0/24 or 2001:db8::/64."""
    except_: Annotated[tuple[AddressRange, ...] | None, Field(max_length=64, alias="except")] = None
    """Ranges within it that are left out."""


class NetworkPeer(Model):
    """Where connections come from, as in a NetworkPolicy."""

    namespace_selector: LabelSelector | None = None
    """Namespaces by their labels, with all their pods unless `podSelector` narrows them."""
    pod_selector: LabelSelector | None = None
    """Pods by their labels, of the Registry's namespace unless `namespaceSelector` is given."""
    ip_block: AddressBlock | None = None
    """Addresses, such as those of nodes or of clients outside the cluster."""

    rules: ClassVar = (
        Rule(
            "has(self.ipBlock) != (has(self.namespaceSelector) || has(self.podSelector))",
            "either ipBlock must be given, or namespaceSelector, podSelector or both",
        ),
    )


class NetworkPolicy(Model):
    """Who may connect to the replicas, where the cluster's network enforces NetworkPolicies."""

    enabled: bool = True
    """Whether there is a NetworkPolicy. Without one, and without others of your own, everyone may connect to every
    port."""
    clients_from: Annotated[tuple[NetworkPeer, ...], Field(min_length=1, max_length=64)] | None = None
    """Who may connect to the registry, everyone unless given. Nodes that pull images are clients too: name their
    addresses by `ipBlock`. What comes through a node port or load balancer has a node's address, unless the Service
    keeps the client's."""
    metrics_from: Annotated[tuple[NetworkPeer, ...], Field(max_length=64)] | None = None
    """Who may connect to the port of metrics and health, such as Prometheus; nobody unless given. The kubelet's probes
    always may."""


class Resources(Model):
    """CPU and memory of a replica."""

    requests: Annotated[dict[str, ResourceQuantity], Field(max_length=16)] | None = None
    """What is set aside for a replica."""
    limits: Annotated[dict[str, ResourceQuantity], Field(max_length=16)] | None = None
    """What a replica can't exceed. The server starts a worker process for each CPU of the limit."""


class Toleration(Model):
    """Lets replicas run on nodes with a taint."""

    key: Annotated[str, Field(max_length=316)] | None = None
    """Key of the taint; every taint if empty, with operator Exists."""
    operator: Literal["Exists", "Equal", "Lt", "Gt"] | None = None
    """How `value` is compared; Equal unless given."""
    value: Annotated[str, Field(max_length=63)] | None = None
    """Value of the taint."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint; every effect unless given."""
    toleration_seconds: int | None = None
    """For NoExecute: how long a replica stays on the node after the taint appears."""


class TopologySpreadConstraint(Model):
    """Spreads replicas over nodes, zones or the like."""

    topology_key: Annotated[str, Field(max_length=316)]
    """The nodes' label over whose values replicas are spread, such as `topology.kubernetes.io/zone`."""
    max_skew: Annotated[int, Field(ge=1)] = 1
    """By how many replicas the values may differ."""
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"] = "ScheduleAnyway"
    """Whether a replica waits when it would exceed `maxSkew`."""
    min_domains: Annotated[int, Field(ge=1)] | None = None
    """The number of values to count with at least; only with DoNotSchedule."""


class Scheduling(Model):
    """Where replicas run."""

    node_selector: Annotated[dict[str, Annotated[str, Field(max_length=63)]], Field(max_length=64)] | None = None
    """Labels that a node must have."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=64)] | None = None
    """Taints that replicas tolerate."""
    affinity: Opaque | None = None
    """Node and pod affinity, as in a pod's spec."""
    topology_spread_constraints: (
        Annotated[
            tuple[TopologySpreadConstraint, ...],
            Field(max_length=16, json_schema_extra=map_by("topologyKey", "whenUnsatisfiable")),
        ]
        | None
    ) = None
    """How replicas are spread. They select this Registry's replicas by themselves."""
    priority_class_name: ObjectName | None = None
    """Priority class of the replicas."""


class Image(Model):
    """The registry server's image."""

    repository: Annotated[str, Field(min_length=1, max_length=255)] = "regatta/registry-server"
    """Name of the image without a tag, for a mirror of your own."""
    tag: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Tag of the image; the operator's own version unless given, so that registries follow the operator's upgrades."""
    pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    """When nodes pull the image."""
    pull_secrets: (
        Annotated[tuple[SecretReference, ...], Field(max_length=16, json_schema_extra=map_by("name"))] | None
    ) = None
    """Secrets with the login for the image."""

    @property
    def effective_tag(self) -> str:
        """The tag that runs."""
        return self.tag or VERSION

    @property
    def reference(self) -> str:
        """The image's name with its tag."""
        return f"{self.repository}:{self.effective_tag}"


class Log(Model):
    """The server's log."""

    level: Literal["debug", "info", "warn", "error"] = "info"
    """The least severe level that is logged. The access log is written at every level."""


_DEFAULT_RESOURCES = Resources(requests={"cpu": "100m", "memory": "256Mi"}, limits={"cpu": "2", "memory": "1Gi"})


class RegistrySpec(Model):
    """What the registry shall be. `{}` is a good start: 10Gi of storage, TLS with an own authority, a generated
    login."""

    storage: Storage = Storage(filesystem=FilesystemStorage())
    """Where the content is kept."""
    tls: Tls = Tls(self_signed=SelfSigned())
    """How the registry is reached: HTTPS unless disabled."""
    access: Access = Access()
    """Who may do what."""
    quotas: (
        Annotated[tuple[Quota, ...], Field(max_length=64, json_schema_extra={"x-kubernetes-list-type": "atomic"})]
        | None
    ) = None
    """How much repositories may take. Without limits a quota measures only, for the metrics."""
    retention: Retention | None = None
    """Tags that go by themselves, by rules; what they led to goes by `garbageCollection` with `deleteUntagged`."""
    garbage_collection: GarbageCollection | None = None
    """Removal of content that nothing refers to, such as the layers of deleted images. `{}` does so once a day."""
    backup: Backup | None = None
    """Copies of all that the registry holds, made while it serves, once a day unless it says otherwise."""
    scrub: Scrub | None = None
    """Content read again and compared with its digest: what is damaged is healed from the backup, or kept from
    clients. `{}` does so once a week."""
    bootstrap: Bootstrap | None = None
    """What a new registry begins with: all that a backup has kept. It is brought back before the registry is Ready,
    and counts for that once; it may be removed then."""
    service: Service = Service()
    """The Service in front of the registry."""
    network_policy: NetworkPolicy = NetworkPolicy()
    """Who may connect: to the registry everyone, to its metrics nobody, unless it says otherwise."""
    replicas: Annotated[int, Field(ge=0, le=100)] = 1
    """How many pods serve. More than one needs storage that they can share. 0 stops the registry and keeps
    everything."""
    resources: Resources = _DEFAULT_RESOURCES
    """CPU and memory of a replica."""
    scheduling: Scheduling = Scheduling()
    """Where replicas run."""
    image: Image = Image()
    """The registry server's image."""
    log: Log = Log()
    """The server's log."""

    rules: ClassVar = (
        Rule(
            "self.replicas <= 1 || !has(self.storage.filesystem) || has(self.storage.filesystem.existingClaim)"
            " || (has(self.storage.filesystem.accessModes) && 'ReadWriteMany' in self.storage.filesystem.accessModes)",
            "replicas above 1 need a volume that several nodes can mount: set storage.filesystem.accessModes to "
            "[ReadWriteMany], with a storage class that offers it, or replicas to 1",
        ),
        Rule(
            "has(oldSelf.bootstrap) || !has(self.bootstrap)",
            "bootstrap fills a new Registry: name the backup when you create it, or bring something back into this one "
            "by `registry-server restore` in its pod",
        ),
    )


# --- status


class Condition(Model):
    """One aspect of the registry's state."""

    type: Literal["Ready", "Progressing", "Degraded"]
    """Ready: it serves. Progressing: a change is being rolled out. Degraded: something needs a person, and `message`
    says what."""
    status: Literal["True", "False", "Unknown"]
    """Whether it is so."""
    reason: Annotated[str, Field(max_length=1024)]
    """One word for programs."""
    message: Annotated[str, Field(max_length=32768)]
    """A sentence for people: what is the matter and what to do."""
    last_transition_time: datetime
    """When `status` last changed."""
    observed_generation: int
    """The generation of the spec that this was said of."""


class CertificateStatus(Model):
    """The certificate that the registry presents."""

    secret_name: str
    """The Secret with the certificate."""
    not_after: datetime
    """When the certificate expires."""
    ca_config_map_name: str | None = None
    """The ConfigMap whose `ca.crt` clients must trust; absent with a certificate of your own."""


class LoginStatus(Model):
    """The login that was generated."""

    secret_name: str
    """The Secret with `username` and `password`."""


class StorageStatus(Model):
    """Where the content is."""

    claim_name: str
    """The PersistentVolumeClaim."""
    size: str | None = None
    """The volume's capacity, or what was asked for as long as there is no volume."""
    phase: str | None = None
    """The claim's phase: Pending, Bound or Lost."""


class JobStatus(Model):
    """How something goes that the registry does by itself."""

    last_time: datetime | None = None
    """When its last run ended."""
    last_result: Literal["Succeeded", "Failed"] | None = None
    """How it ended. A run that found damage which it could not heal has failed."""
    message: str | None = None
    """Why it failed."""
    next_time: datetime | None = None
    """When the next one is due; absent while it is suspended."""
    running_since: datetime | None = None
    """When a run began that goes on."""


class BackupJobStatus(JobStatus):
    """How backups go."""

    last_success_time: datetime | None = None
    """When the last run ended that succeeded."""
    last_backup: str | None = None
    """The RegistryBackup that it made."""


class BootstrapStatus(Model):
    """What the registry began with."""

    source: Archive
    """Where the copies were."""
    run: str | None = None
    """Which run; absent for the last one."""


class RegistryStatus(Model):
    """What the registry is. Written by the operator alone."""

    observed_generation: int | None = None
    """The generation of the spec that the status speaks of."""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16, json_schema_extra=map_by("type"))] | None = None
    """Ready, Progressing and Degraded."""
    address: str | None = None
    """`host:port`, as it stands before an image's name."""
    addresses: (
        Annotated[tuple[str, ...], Field(max_length=64, json_schema_extra={"x-kubernetes-list-type": "atomic"})] | None
    ) = None
    """Every `host:port` that reaches the registry."""
    version: str | None = None
    """Tag of the image that is rolled out."""
    storage: StorageStatus | None = None
    """Where the content is."""
    certificate: CertificateStatus | None = None
    """The certificate that the registry presents; absent without TLS."""
    login: LoginStatus | None = None
    """The login that was generated; absent with users of your own."""
    bootstrap: BootstrapStatus | None = None
    """What it began with, if that was named by a RegistryBackup: it counts also when that is gone."""
    backup: BackupJobStatus | None = None
    """How backups go."""
    garbage_collection: JobStatus | None = None
    """How garbage collection goes."""
    retention: JobStatus | None = None
    """How retention goes."""
    scrub: JobStatus | None = None
    """How scrubs go."""


# --- the object


class Metadata(Model):
    """What the operator reads of an object's metadata."""

    model_config = ConfigDict(extra="ignore")

    name: str
    namespace: str
    uid: str = ""
    generation: int = 0


class Registry(Resource):
    """One container registry: a deployment of the registry server with its volume, certificate, logins and Service."""

    resource: ClassVar[Kind] = REGISTRY
    singular: ClassVar[str] = "registry"
    short_names: ClassVar[tuple[str, ...]] = ("reg",)
    columns: ClassVar[tuple[tuple[str, str, str], ...]] = (
        ("Ready", "string", '.status.conditions[?(@.type=="Ready")].status'),
        ("Host", "string", ".status.address"),
        ("Storage", "string", ".status.storage.size"),
        ("Version", "string", ".status.version"),
        ("Backup", "date", ".status.backup.lastSuccessTime"),
        ("Age", "date", ".metadata.creationTimestamp"),
    )

    metadata: Metadata
    spec: RegistrySpec = RegistrySpec()
    """What the registry shall be."""
    status: RegistryStatus | None = None
    """What the registry is. Written by the operator alone."""
