"""Telling others what happened in the registry, at least once, whatever falls over in between.

    handler ─► Reporter ─► Recorder ─► journal on disk ─► Couriers ─► endpoints
               what it was    durable      shared by all     one process of all,
                              in batches   workers           each endpoint in order

A push, a mount and a deletion are in the journal before they are acknowledged; pulls follow within `FLUSH_EVERY`.
"""

from registry_server.notifications.events import Source
from registry_server.notifications.journal import Journal, SpoolError, prepare_spool
from registry_server.notifications.recorder import Recorder

__all__ = ["Journal", "Recorder", "Source", "SpoolError", "prepare_spool"]
