"""Which repository holds what under which tag."""
