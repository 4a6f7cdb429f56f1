"""The native CPU engine: inference without torch (its C sources are in `c`)."""
