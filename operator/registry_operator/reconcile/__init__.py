"""From what is to what shall be, a kind a package. Knows the `Cluster` protocol and no transport."""
