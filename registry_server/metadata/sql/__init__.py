"""Metadata in a database, which is then the truth: no link file is read or written.

    SqlMetadata ─► Database.fetch        a prepared query, for what every pull asks
              └──► Database.write        a transaction, tried again when another one was in its way

Content stays in storage. It is durable there before the row that names it commits, and a request is acknowledged after
that. Foreign keys hold what refers to what, so nothing can be taken away that something else needs.
"""
