"""Regatta's registry server: the OCI distribution protocol over distribution's own storage layout."""

__version__ = "0.1.0"
