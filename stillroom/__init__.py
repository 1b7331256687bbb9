"""stillroom: run teachers once, cache their outputs, train students from the cache."""

__version__ = "0.1.0"
