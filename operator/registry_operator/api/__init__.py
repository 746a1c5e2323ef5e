"""The types of the API group `regatta.dev/v1alpha1`. The CRDs in `crds/` are written from them."""
