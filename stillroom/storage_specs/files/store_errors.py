"""What a store's failures mean to the user, and what to do."""

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
    """Whether a "not found" is about the bucket, not about an object in it."""
    return NO_BUCKET.search(text) is not None


def explained(url: str, path: str, text: str, *, writing: bool) -> StillroomError:
    """The error to raise for what obstore said.

    url: of the cache
    text: obstore's message, whose first line is for people
    """
    scheme, _, rest = url.partition("://")
    bucket = rest.partition("/")[0]
    where = f"{url}/{path}" if path else url
    variables = ENVIRONMENT.get(scheme, "")
    said = text.partition("\n")[0].strip()
    if is_of_bucket(text):
        return StoreUnavailable(
            f"{url}: there is no bucket {bucket!r} at {endpoint(scheme)}; create it, or mend "
            f"cache.path or the environment ({variables}), {AGAIN}"
        )
    if FORBIDDEN.search(text):
        kind = CacheUnwritable if writing else StoreUnavailable
        return kind(
            f"{where}: no permission to {'write' if writing else 'read'} ({said}); allow these "
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
            f"{where}: no credentials ({said}); set {variables} in the environment, {AGAIN}"
        )
    if SILENT.search(text):
        return StoreUnavailable(
            f"{where}: {endpoint(scheme)} does not answer ({said}); look at the network and at the "
            f"environment ({variables}), {AGAIN}"
        )
    return StoreUnavailable(f"{where}: the store failed: {said}; look at it, {AGAIN}")


def endpoint(scheme: str) -> str:
    """Where requests go, as far as the environment says."""
    if scheme != "s3":
        return {"gs": "Google Cloud Storage"}.get(scheme, "this process")
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"):
        if os.environ.get(name):
            return os.environ[name]
    return "Amazon S3"
