"""What a registry does by itself: collect garbage, back up, scrub; and the backup that a new one begins with."""

from typing import Annotated, ClassVar

from pydantic import Field

from registry_operator.api.model import Matching, Model, OneOf, Rule
from registry_operator.api.values import (
    AS_SET,
    DurationText,
    ObjectName,
    QuantityText,
    Repositories,
    RunName,
    Schedule,
    SecretReference,
    TimeZone,
)

_RECURRING: tuple[Rule, ...] = (
    Rule("!(has(self.schedule) && has(self.interval))", "schedule and interval say the same: remove one of them"),
    Rule("!has(self.timeZone) || has(self.schedule)", "timeZone is that of a schedule: give schedule, or remove it"),
)


class Recurring(Model):
    """Something that recurs. The servers do it themselves, one of them at a time, in a process beside those that
    answer requests."""

    schedule: Schedule | None = None
    """When, as in crontab: `15 2 * * *` is a quarter past two each night. What was missed, as nothing ran then, is
    made up for at once."""
    time_zone: TimeZone | None = None
    """The time zone of `schedule`, UTC unless given."""
    interval: DurationText | None = None
    """Instead of `schedule`: how long after the last time."""
    suspend: bool = False
    """Whether none begins for now; all else stays as it is."""

    rules: ClassVar = _RECURRING


class GarbageCollection(Recurring):
    """When content that nothing refers to is removed. The registry serves on meanwhile, pushes and deletes included.
    Once a day, unless `schedule` or `interval` says otherwise."""

    grace: DurationText = "24h"
    """For how long nobody must have pushed or asked for something before it is taken; it is kept apart for as long
    again, and given back to whoever asks for it. A push that takes longer has to be done again."""
    delete_untagged: bool = False
    """Whether manifests go as well that no tag leads to: by itself, by an index, or as what a signature belongs to."""

    rules: ClassVar = (
        *_RECURRING,
        Rule("!has(self.interval) || duration(self.interval) >= duration('1m')", "interval must be a minute at least"),
        Rule("duration(self.grace) >= duration('10m')", "grace must be ten minutes at least, as pushes take time"),
    )


class Scrub(Recurring):
    """When all content is read again and compared with its digest. Once a week, unless `schedule` or `interval` says
    otherwise."""

    rate: QuantityText = "20Mi"
    """How many bytes a second are read."""


class KeepTags(Model):
    """Which of the tags stay that a rule covers: those that any of these keeps."""

    last: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """How many of the last ones, by when they were pushed."""
    newer_than: DurationText | None = None
    """What was pushed within this time, such as 720h."""
    pulled_within: DurationText | None = None
    """What was pulled within this time, or asked for by a client that wanted to know what it leads to."""
    patches: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """How many of the newest patches of each minor version: of 1.2.3, 1.2.4 and 1.3.0 one each keeps 1.2.4 and
    1.3.0."""

    rules: ClassVar = (
        Rule(
            "has(self.last) || has(self.newerThan) || has(self.pulledWithin) || has(self.patches)",
            "keep keeps nothing: give last, newerThan, pulledWithin or patches",
        ),
    )


TagPatterns = Annotated[
    tuple[
        Annotated[
            str,
            Field(max_length=128),
            Matching(r"[A-Za-z0-9._*?-]+", "must be a tag, with * and ? as wildcards, such as pr-*"),
        ],
        ...,
    ],
    Field(max_length=32, json_schema_extra=AS_SET),
]


class RetentionRule(Model):
    """A rule for tags. What it covers goes, unless it or another rule that covers it keeps it."""

    repositories: Repositories
    """In which repositories: names, with wildcards as in policies."""
    tags: TagPatterns | None = None
    """Which tags, `*` and `?` standing for any part; all unless given."""
    exclude: TagPatterns | None = None
    """Which of them it does not cover."""
    keep: KeepTags
    """Which of them stay."""


class Retention(Recurring):
    """When tags go that no rule keeps. Immutable tags stay, and signatures as long as their image does. Once a day,
    unless `schedule` or `interval` says otherwise; `registry-server retention --dry-run` shows what would go."""

    retain: Annotated[
        tuple[RetentionRule, ...],
        # `rules` are those of the CRD in Python.
        Field(min_length=1, max_length=64, alias="rules", json_schema_extra={"x-kubernetes-list-type": "atomic"}),
    ]
    """The rules."""
    keep_running: bool = True
    """Whether tags stay by which pods run, or that lead to what they run, and manifests, as garbage collection sees
    them; as known a few minutes ago. The operator looks for the addresses in the Registry's status, and `hosts`."""
    hosts: (
        Annotated[
            tuple[
                Annotated[
                    str,
                    Field(max_length=260),
                    Matching(r"[A-Za-z0-9.\[\]:-]+", "must be a host, with its port unless that is 443"),
                ],
                ...,
            ],
            Field(max_length=32, json_schema_extra=AS_SET),
        ]
        | None
    ) = None
    """Further names by which pods' images name this registry, such as registry.example.com."""


# --- where copies are


class ClaimArchive(Model):
    """A folder of a PersistentVolumeClaim in the Registry's namespace, on other disks than the registry's own."""

    name: ObjectName
    """Name of the claim. Where replicas are on several nodes it has to be ReadWriteMany."""
    path: (
        Annotated[
            str,
            Field(max_length=255),
            Matching(
                r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*",
                "must be a folder within the claim, such as registries/team",
            ),
        ]
        | None
    ) = None
    """The folder, for this registry alone; the Registry's name unless given."""


class _Bucket(Model):
    bucket: Annotated[str, Field(min_length=1, max_length=255)]
    """Name of the bucket."""
    prefix: Annotated[str, Field(max_length=512)] | None = None
    """What the names of the objects begin with, for this registry alone; NAMESPACE/NAME of the Registry unless
    given."""


class S3Archive(_Bucket):
    """A bucket of S3, or of what speaks its protocol."""

    region: Annotated[str, Field(min_length=1, max_length=64)] = "us-east-1"
    """Region of the bucket."""
    endpoint: (
        Annotated[
            str,
            Field(max_length=512),
            Matching(r"https?://[^/\s]+(/\S*)?", "must be a URL, such as https://s3.example.com"),
        ]
        | None
    ) = None
    """Where the protocol is spoken, for what is not AWS."""
    force_path_style: bool = False
    """Whether the bucket is named in the path rather than in the host's name, as many a server other than AWS wants
    it."""
    credentials: SecretReference | None = None
    """A Secret with `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`; the node's role unless given."""


class GCSArchive(_Bucket):
    """A bucket of Google Cloud Storage."""

    credentials: SecretReference | None = None
    """A Secret with `key.json`, the key of a service account; the node's identity unless given."""


class AzureArchive(Model):
    """A container of Azure Blob Storage."""

    account_name: Annotated[
        str, Matching(r"[a-z0-9]{3,24}", "must be 3 to 24 lower-case letters and digits, as accounts are named")
    ]
    """Name of the storage account."""
    container: Annotated[str, Field(min_length=1, max_length=64)]
    """Name of the container."""
    prefix: Annotated[str, Field(max_length=512)] | None = None
    """What the names of the blobs begin with, for this registry alone; NAMESPACE/NAME of the Registry unless given."""
    credentials: SecretReference
    """A Secret with `AZURE_STORAGE_KEY`, the account's key."""


class Archive(OneOf):
    """Where copies are. Exactly one member is given."""

    claim: ClaimArchive | None = None
    """A folder of a PersistentVolumeClaim."""
    s3: S3Archive | None = None
    """A bucket of S3, or of what speaks its protocol."""
    gcs: GCSArchive | None = None
    """A bucket of Google Cloud Storage."""
    azure: AzureArchive | None = None
    """A container of Azure Blob Storage."""

    @property
    def kind(self) -> str:
        """The member that is given."""
        return next(name for name in self.members() if getattr(self, name) is not None)

    @property
    def credentials(self) -> SecretReference | None:
        """The Secret with what the store asks for."""
        store = self.s3 or self.gcs or self.azure
        return store.credentials if store else None


# --- what is done with them


class Keep(Model):
    """Which runs are kept: the last ones, and the last of each of the latest hours, days, weeks and months. A run is
    kept if any of them keeps it."""

    last: Annotated[int, Field(ge=0, le=10_000)] = 0
    """How many of the last runs."""
    hourly: Annotated[int, Field(ge=0, le=10_000)] = 0
    """For how many hours the last run of each."""
    daily: Annotated[int, Field(ge=0, le=10_000)] = 0
    """For how many days the last run of each."""
    weekly: Annotated[int, Field(ge=0, le=10_000)] = 0
    """For how many weeks the last run of each."""
    monthly: Annotated[int, Field(ge=0, le=10_000)] = 0
    """For how many months the last run of each."""


class Backup(Recurring):
    """When copies are made of all that the registry holds, where they go, and how long they are kept. Once a day,
    unless `schedule` or `interval` says otherwise."""

    destination: Archive
    """Where copies go. A content is copied once, whatever the number of runs."""
    keep: Keep | None = None
    """Which runs are kept; all of them unless given."""
    immediate: bool = False
    """Whether the first run begins as soon as the registry serves."""
    verify: bool = False
    """Whether all that a run has kept is read again each time."""
    signing_key: SecretReference | None = None
    """A Secret with `key`, 16 bytes at least, by which runs are signed: only such are brought back."""


class BackupReference(Model):
    """A RegistryBackup in the Registry's namespace."""

    name: ObjectName
    """Name of the RegistryBackup."""


class Bootstrap(Model):
    """The backup that a new registry begins with: `backup`, or `source`."""

    backup: BackupReference | None = None
    """The RegistryBackup: a run, and where its copies are."""
    source: Archive | None = None
    """Where the copies are: `backup.destination` of the Registry that they are of. Without a path or prefix, that
    which a Registry of this name and namespace has."""
    run: RunName | None = None
    """Which run of `source`; the last one unless given."""
    signing_key: SecretReference | None = None
    """A Secret with the `key` by which runs are signed."""

    rules: ClassVar = (
        Rule("has(self.backup) != has(self.source)", "give either backup or source, by which the copies are found"),
        Rule("!has(self.run) || has(self.source)", "run is one of source: backup names its own"),
    )
