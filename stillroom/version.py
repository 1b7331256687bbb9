"""The version of the package, which caches and runs name."""

__version__ = "0.1.0"
