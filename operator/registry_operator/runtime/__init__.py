"""Runs the reconcile against a Kubernetes cluster: kopf's watches, the queue, the Lease and the endpoints."""
