"""The whole road on a small model and text that come as pinned downloads."""
