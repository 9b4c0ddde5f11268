"""tinyface: face embeddings on bare CPUs, from scratch."""

__version__ = "0.1.0"
