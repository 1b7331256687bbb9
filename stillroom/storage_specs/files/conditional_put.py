"""PUT if absent (`If-None-Match: *`), and whether a store means it when it answers.

Some stores ignore the condition, put the object over what is there, and say that all went well.
"""

from __future__ import annotations

import re
import secrets
from contextlib import suppress
from typing import Any

PROBES = "manifest/.staging"
"""The folder of objects that are there for a moment, to ask the store with."""
NOT_IMPLEMENTED = re.compile(r"\b(400|405|501) [A-Z].*NotImplemented|\b501 Not Implemented", re.S)


def created(store: Any, path: str, content: bytes) -> bool:
    """Put an object unless there is one; whether the store says that it did.

    Args:
        store: obstore's

    Raises:
        NotSupportedError: the store has no such request.
    """
    import obstore
    from obstore.exceptions import (
        AlreadyExistsError,
        GenericError,
        NotSupportedError,
        PreconditionError,
    )

    try:
        obstore.put(store, path, content, mode="create", use_multipart=False)
    except (AlreadyExistsError, PreconditionError):
        return False
    except GenericError as error:
        if NOT_IMPLEMENTED.search(str(error)):
            raise NotSupportedError(str(error)) from error
        raise
    return True


def keeps_what_is_there(store: Any) -> bool:
    """Whether a second PUT if absent of one object is refused, tried on an object of its own."""
    import obstore
    from obstore.exceptions import BaseError, NotSupportedError

    path = f"{PROBES}/{secrets.token_hex(6)}.probe"
    try:
        created(store, path, b"first")
        return not created(store, path, b"second")
    except NotSupportedError:
        return False
    finally:
        with suppress(BaseError, OSError):  # a probe that stays harms nobody
            obstore.delete(store, path)
