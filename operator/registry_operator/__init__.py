"""Regatta's operator: keeps a deployment of the registry server for each `Registry` resource."""
