"""stillroom: run the teachers once, keep what they say, train students from the cache."""

__version__ = "0.1.0"
