"""The revisions of the schema. One that was released never changes."""
