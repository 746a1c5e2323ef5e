"""Work on a whole registry at once, beside its server or without one."""
