"""Errors of an object store, explained to the user with the next action."""

from __future__ import annotations

import os
import re

from stillroom.storage_specs.errors import CacheUnwritable, StillroomError, StoreUnavailable

NO_BUCKET = re.compile(r"NoSuchBucket|bucket does not exist", re.IGNORECASE)
FORBIDDEN = re.compile(
    r"\b40[13] (Forbidden|Unauthorized)|AccessDenied|SignatureDoesNotMatch|InvalidAccessKeyId"
)
NO_CREDENTIALS = re.compile(
    r"169\.254\.|metadata\.google|credential|token request|private key", re.IGNORECASE
)
PLAIN_HTTP = re.compile(r"BadScheme|builder error")
SILENT = re.compile(
    r"error sending request|timed? ?out|connection|dns error|incomplete message", re.IGNORECASE
)
ENVIRONMENT = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and, for a store that is not "
    "Amazon's, AWS_ENDPOINT_URL",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS or GOOGLE_SERVICE_ACCOUNT (path of a key file)",
}
RIGHTS = {
    "s3": "s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket",
    "gs": "storage.objects.get, .create, .delete and .list",
}
AGAIN = "then run the same command again: what is committed is kept"


def is_of_bucket(text: str) -> bool:
    """Return whether a "not found" is about the bucket, not about an object in it."""
    return NO_BUCKET.search(text) is not None


def explained(url: str, path: str, text: str, *, writing: bool) -> StillroomError:
    """Return the error to raise for a message of obstore.

    Args:
        url: of the cache
        text: obstore's message; its first line is kept
    """
    scheme, _, rest = url.partition("://")
    bucket = rest.partition("/")[0]
    where = f"{url}/{path}" if path else url
    variables = ENVIRONMENT.get(scheme, "")
    message = text.partition("\n")[0].strip()
    if is_of_bucket(text):
        return StoreUnavailable(
            f"{url}: there is no bucket {bucket!r} at {endpoint(scheme)}; create it, or mend "
            f"cache.path or the environment ({variables}), {AGAIN}"
        )
    if FORBIDDEN.search(text):
        kind = CacheUnwritable if writing else StoreUnavailable
        return kind(
            f"{where}: no permission to {'write' if writing else 'read'} ({message}); allow these "
            f"credentials {RIGHTS.get(scheme, 'access')} on the bucket, or set others in the "
            f"environment ({variables}), {AGAIN}"
        )
    if PLAIN_HTTP.search(text):
        return StoreUnavailable(
            f"{where}: {endpoint(scheme)} is not reached over https; if plain http is meant, set "
            f"AWS_ALLOW_HTTP=true, {AGAIN}"
        )
    if NO_CREDENTIALS.search(text):
        return StoreUnavailable(
            f"{where}: no credentials ({message}); set {variables} in the environment, {AGAIN}"
        )
    if SILENT.search(text):
        return StoreUnavailable(
            f"{where}: {endpoint(scheme)} does not answer ({message}); look at the network and "
            f"at the environment ({variables}), {AGAIN}"
        )
    return StoreUnavailable(f"{where}: the store failed: {message}; look at it, {AGAIN}")


def endpoint(scheme: str) -> str:
    """Return the address of requests, as far as the environment sets it."""
    if scheme != "s3":
        return {"gs": "Google Cloud Storage"}.get(scheme, "this process")
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"):
        if os.environ.get(name):
            return os.environ[name]
    return "Amazon S3"
