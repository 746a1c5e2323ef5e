"""The engine that keeps registries on a Kubernetes cluster."""
