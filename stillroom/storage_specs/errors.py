"""The errors, grouped by the user's next action.

    StillroomError
    ├── ConfigError        change the run file or the command line
    ├── FrameError         one frame is unreadable: becomes a bad row, the build goes on
    ├── SourceUnavailable  a source's file cannot be read now: mend that, run the same command again
    ├── ArtifactError      an array has another shape, dtype or range than its artifact demands
    ├── WeightsError       a weights file does not fit its network
    ├── StoreUnavailable   an object store refuses or does not answer: nothing is known of the cache
    ├── StoppedElsewhere   another process of the same training failed, and says why
    └── CacheError
        ├── CacheMismatch  built from something else: rebuild, or point at another folder
        ├── CacheIncomplete  frames are missing: run `stillroom cache build RUN.toml`
        ├── CacheCorrupt   bytes changed since they were committed: run `stillroom cache verify`
        ├── CacheUnwritable  disk full, no permission: free it and run the same command again
        └── TooManyBadFrames  see why, then build into another folder or raise the limit

Every message names the object, the expected and the found value, and the next command.
"""

from __future__ import annotations


class StillroomError(Exception):
    """Anything that stillroom can explain to its user in one message."""


class ConfigError(StillroomError, ValueError):
    """The run file or the command line names something that does not exist or fit."""


class FrameError(StillroomError):
    """One frame cannot be used; the message is the reason its row will carry."""


class SourceUnavailable(StillroomError):
    """The machine does not give a source's file; no FrameError: the frame may well be good."""


class ArtifactError(StillroomError, ValueError):
    """An array has another shape, dtype or range than its artifact demands."""


class WeightsError(StillroomError):
    """A weights file is missing, unreadable, or does not fit its network."""


class StoreUnavailable(StillroomError):
    """An object store refuses or does not answer; no CacheError: the cache may well be whole."""


class StoppedElsewhere(StillroomError):
    """Another process of the same training failed, and says why: there is nothing to add."""


class CacheError(StillroomError):
    """Something about a cache on disk."""


class CacheMismatch(CacheError):
    """The cache was built from something else than the run defines."""


class CacheIncomplete(CacheError):
    """Frames that the run needs have not been committed."""


class CacheCorrupt(CacheError):
    """Bytes differ from what was committed."""


class CacheUnwritable(CacheError):
    """The cache folder cannot be written: no space, no permission, read-only."""


class TooManyBadFrames(CacheError):
    """A set holds more unusable frames than the run allows."""
