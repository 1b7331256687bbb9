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
CLOCK = re.compile(r"RequestTimeTooSkewed|RequestExpired")
READ_ONLY = re.compile(r"status code: 405|MethodNotAllowed")
PLAIN_HTTP = re.compile(r"BadScheme|builder error")
SILENT = re.compile(
    r"error sending request|timed? ?out|connection|dns error|incomplete message", re.IGNORECASE
)
ANSWER = re.compile(r"performing (\w+) .*?status code: (\d{3}[A-Za-z ]*)(?:: ?(.*))?", re.DOTALL)
RETRIES = re.compile(r" in (\S+), after (\d+) retries")
TAGS = (  # of the body: of XML, of JSON
    re.compile(r"<Code>\s*(.*?)\s*</Code>", re.DOTALL),
    re.compile(r"<Message>\s*(.*?)\s*</Message>", re.DOTALL),
    re.compile(r'"message"\s*:\s*"((?:[^"\\]|\\.)*)"'),
)
LONGEST = 300  # characters of a body that is neither
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


def said(text: str) -> str:
    """Return what the server answered: status, code and message, and how often it was asked.

    Args:
        text: obstore's message
    """
    head = text.partition("\n\nDebug source")[0]
    answer = ANSWER.search(head)
    if answer is None:
        return head.partition("\n")[0].strip()
    request, status, body = answer[1], answer[2].strip(), answer[3] or ""
    found = [tag.search(body) for tag in TAGS]
    parts = [match[1] for match in found if match] or [body[:LONGEST]]
    words = " ".join(": ".join(part for part in parts if part.strip()).split())
    retries = RETRIES.search(head)
    asked = f" (asked {int(retries[2]) + 1} times in {retries[1]})" if retries else ""
    return f"{request} answered {status}{', ' * bool(words)}{words}{asked}"


def was_retried(text: str) -> bool:
    """Return whether the request was made more than once before it was given up."""
    return RETRIES.search(text) is not None


def explained(url: str, path: str, text: str, *, writing: bool) -> StillroomError:
    """Return the error to raise for a message of obstore.

    Args:
        url: of the cache
        text: obstore's message
    """
    scheme, _, rest = url.partition("://")
    bucket = rest.partition("/")[0]
    where = f"{url}/{path}" if path else url
    variables = ENVIRONMENT.get(scheme, "")
    message = said(text)
    if is_of_bucket(text):
        return StoreUnavailable(
            f"{url}: there is no bucket {bucket!r} at {endpoint(scheme)}; create it, or mend "
            f"cache.path or the environment ({variables}), {AGAIN}"
        )
    if CLOCK.search(text):
        return StoreUnavailable(
            f"{where}: this machine's clock is not the store's ({message}); set it (NTP), {AGAIN}"
        )
    if writing and READ_ONLY.search(text):
        return CacheUnwritable(
            f"{where}: the store takes no writes here ({message}); allow them, or point cache.path "
            f"elsewhere, {AGAIN}"
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
    if ANSWER.search(text) is None and SILENT.search(text):
        return StoreUnavailable(
            f"{where}: {endpoint(scheme)} does not answer ({message}); look at the network and "
            f"at the environment ({variables}), {AGAIN}"
        )
    return StoreUnavailable(f"{where}: the store failed: {message}; look at it, {AGAIN}")


def not_for_two_builders(url: str) -> str:
    """Return the warning for a store that puts an object over one that it was told to keep."""
    return (
        f"{url}: {endpoint(url.partition('://')[0])} puts objects over those that are there, "
        "though asked not to (`If-None-Match: *`). One build at a time of this cache is safe "
        "there, with any number of workers; two at once may undo each other's definitions: "
        "never start a second one while one runs"
    )


def ranges_ignored(url: str) -> str:
    """Return the warning for a store that answers every range with the whole object."""
    return (
        f"{url}: {endpoint(url.partition('://')[0])} answers a request for a part of an object "
        "with all of it, so that each frame costs a whole shard; set STILLROOM_SHARD_CACHE to a "
        "folder of this machine, and each shard is fetched once"
    )


def still_there(where: str) -> str:
    """Return the error for an object that a store kept though it said that it deleted it."""
    return (
        f"{where}: the store says that it deleted it, and has it still; end what keeps it "
        f"(a lock, a retention rule, another writer), {AGAIN}"
    )


def encoded_body(where: str, encoding: str) -> str:
    """Return the error for an answer whose bytes are not the object's."""
    return (
        f"{where}: expected the object's own bytes, got them in the encoding {encoding!r}: a "
        "proxy compresses what the store sends; turn that off for this store, or go round the "
        f"proxy (HTTPS_PROXY, NO_PROXY), {AGAIN}"
    )


def endpoint(scheme: str) -> str:
    """Return the address of requests, as far as the environment sets it."""
    if scheme != "s3":
        return {"gs": "Google Cloud Storage"}.get(scheme, "this process")
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"):
        if os.environ.get(name):
            return os.environ[name]
    return "Amazon S3"
