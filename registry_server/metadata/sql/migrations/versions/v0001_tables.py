"""The first tables.

Revision ID: 0001
Revises: nothing
"""

from typing import Any, Final

from alembic import op
from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.types import TypeEngine

revision = "0001"
down_revision = None

_MYSQL: Final = ("mysql", "mariadb")
_TABLE: Final[dict[str, Any]] = {
    f"{dialect}_{name}": value
    for dialect in _MYSQL
    for name, value in (("engine", "InnoDB"), ("charset", "ascii"), ("collate", "ascii_bin"))
}

Id: Final = BigInteger().with_variant(Integer, "sqlite")
"""SQLite numbers its rows by itself only as INTEGER, which has 64 bits there."""
LongText: Final = Text().with_variant(mysql.LONGTEXT(charset="ascii", collation="ascii_bin"), *_MYSQL)


def ascii_text(length: int) -> TypeEngine[str]:
    """A text that is compared and ordered by its bytes: names, tags and digests are ASCII, and case counts."""
    return (
        String(length)
        .with_variant(postgresql.VARCHAR(length, collation="C"), "postgresql")
        .with_variant(mysql.VARCHAR(length, charset="ascii", collation="ascii_bin"), *_MYSQL)
    )


Name: Final = ascii_text(255)
Tag: Final = ascii_text(128)
DigestText: Final = ascii_text(135)
"""`sha512:` and 128 digits is the longest."""


def upgrade() -> None:
    op.create_table(
        "repositories",
        Column("id", Id, primary_key=True),
        Column("name", Name, nullable=False, unique=True),
        Column("created_at", BigInteger, nullable=False, comment="milliseconds since 1970, as all times here"),
        **_TABLE,
    )
    op.create_table(
        "blobs",
        Column("id", Id, primary_key=True),
        Column("digest", DigestText, nullable=False, unique=True, comment="canonical: sha256"),
        Column("size", BigInteger, nullable=False),
        Column("created_at", BigInteger, nullable=False),
        **_TABLE,
    )
    op.create_table(
        "repository_blobs",
        Column("repository_id", Id, ForeignKey("repositories.id"), primary_key=True, autoincrement=False),
        Column("blob_id", Id, ForeignKey("blobs.id"), primary_key=True, autoincrement=False),
        Column("created_at", BigInteger, nullable=False),
        Index("ix_repository_blobs_blob_id", "blob_id"),
        **_TABLE,
    )
    op.create_table(
        "blob_aliases",
        Column("repository_id", Id, primary_key=True, autoincrement=False),
        Column("digest", DigestText, primary_key=True, comment="not canonical: sha512"),
        Column("blob_id", Id, nullable=False),
        ForeignKeyConstraint(
            ["repository_id", "blob_id"],
            ["repository_blobs.repository_id", "repository_blobs.blob_id"],
            ondelete="CASCADE",
        ),
        Index("ix_blob_aliases_repository_id_blob_id", "repository_id", "blob_id"),
        Index("ix_blob_aliases_digest", "digest"),
        **_TABLE,
    )
    op.create_table(
        "manifests",
        Column("id", Id, primary_key=True),
        Column("repository_id", Id, ForeignKey("repositories.id"), nullable=False),
        Column("digest", DigestText, nullable=False, comment="the one it was pushed by"),
        Column("blob_id", Id, ForeignKey("blobs.id"), nullable=False, comment="its content"),
        Column("media_type", LongText, nullable=False, comment="escaped as in JSON, as artifact_type"),
        Column("artifact_type", LongText),
        Column("subject", DigestText, comment="the manifest it refers to, which need not exist"),
        Column("annotations", LongText, comment="JSON, of manifests with a subject only: lists of referrers show them"),
        Column("pushed_at", BigInteger, nullable=False, comment="for the first time"),
        UniqueConstraint("repository_id", "digest"),
        UniqueConstraint("repository_id", "id"),
        Index("ix_manifests_blob_id", "blob_id"),
        Index("ix_manifests_repository_id_subject_digest", "repository_id", "subject", "digest"),
        **_TABLE,
    )
    op.create_table(
        "tags",
        Column("repository_id", Id, primary_key=True, autoincrement=False),
        Column("name", Tag, primary_key=True),
        Column("manifest_id", Id, nullable=False),
        Column("created_at", BigInteger, nullable=False),
        Column("updated_at", BigInteger, nullable=False, comment="when it was pointed to its manifest"),
        ForeignKeyConstraint(["repository_id", "manifest_id"], ["manifests.repository_id", "manifests.id"]),
        Index("ix_tags_repository_id_manifest_id", "repository_id", "manifest_id"),
        **_TABLE,
    )
    op.create_table(
        "manifest_blobs",
        Column(
            "manifest_id", Id, ForeignKey("manifests.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
        ),
        Column("blob_id", Id, ForeignKey("blobs.id"), primary_key=True, autoincrement=False),
        Index("ix_manifest_blobs_blob_id", "blob_id"),
        **_TABLE,
    )
    op.create_table(
        "manifest_children",
        Column("repository_id", Id, primary_key=True, autoincrement=False),
        Column("parent_id", Id, primary_key=True, autoincrement=False),
        Column("child_id", Id, primary_key=True, autoincrement=False),
        ForeignKeyConstraint(
            ["repository_id", "parent_id"],
            ["manifests.repository_id", "manifests.id"],
            name="fk_manifest_children_parent",
            ondelete="CASCADE",
        ),
        ForeignKeyConstraint(
            ["repository_id", "child_id"],
            ["manifests.repository_id", "manifests.id"],
            name="fk_manifest_children_child",
        ),
        Index("ix_manifest_children_repository_id_child_id", "repository_id", "child_id"),
        **_TABLE,
    )
    op.create_table(
        "missing_references",
        Column(
            "manifest_id", Id, ForeignKey("manifests.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
        ),
        Column("digest", DigestText, primary_key=True),
        Index("ix_missing_references_digest", "digest"),
        **_TABLE,
    )
