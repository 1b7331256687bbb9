"""How obstore is reached: credentials and address from the environment, each request bounded."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from stillroom.storage_specs.errors import ConfigError

# A store that refuses connections is asked again for seconds, one that keeps silent for a minute.
RETRIES = {
    "max_retries": 4,
    "retry_timeout": timedelta(seconds=40),
    "backoff": {
        "init_backoff": timedelta(milliseconds=200),
        "max_backoff": timedelta(seconds=4),
        "base": 2,
    },
}
TIMEOUTS = {"connect_timeout": timedelta(seconds=5), "timeout": timedelta(seconds=30)}
_memory: dict[str, Any] = {}  # by URL: what memory:// holds lives as long as the process


def connected(url: str) -> Any:
    """The store of a URL, as obstore has it; no request is made yet."""
    from obstore.store import GCSStore, MemoryStore, S3Store

    scheme, _, rest = url.partition("://")
    if scheme == "memory":
        return _memory.setdefault(url, MemoryStore())
    bucket, _, prefix = rest.partition("/")
    # Passed on explicitly: given client options, obstore does not read this variable itself.
    http = os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true", "yes")
    options: Any = {
        "prefix": prefix or None,
        "client_options": {**TIMEOUTS, **({"allow_http": True} if http else {})},
        "retry_config": RETRIES,
    }
    return S3Store(bucket, **options) if scheme == "s3" else GCSStore(bucket, **options)


def demand_obstore(url: str) -> None:
    """Refuse a URL where obstore is not installed (ConfigError)."""
    try:
        import obstore  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"{url}: an object store needs the package obstore, which cannot be imported "
            f"({error}); run `pip install obstore`"
        ) from error
