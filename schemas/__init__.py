"""The contract between the two stages: the row record, what is derived from it, the manifest, the settings."""
