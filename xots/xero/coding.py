"""The content coding of a response: gzip, decoded within a bound. Pure.

Requests ask for the coding ``identity`` (RFC 9110 section 12.5.3). Some servers, and proxies before
them, send gzip all the same.
"""

from __future__ import annotations

import gzip
import re
import zlib
from dataclasses import replace
from io import BytesIO

from ..lifecycle.outcomes import Unknown
from .protocol import Response

__all__ = ["decoded"]

NAME = re.compile(r"[a-z0-9-]{1,16}")
"""The name of a coding that is shown, such as ``br``."""


def decoded(response: Response, max_bytes: int) -> Response | Unknown:
    """Return the response with its content as it was before the coding (RFC 9110 section 8.4).

    Args:
        response: the response as it arrived.
        max_bytes: upper bound on the decoded content.

    Returns:
        The response; ``Unknown`` if its content cannot be decoded. The request may have been
        carried out then. A 429 without its content is still one: its status says enough.
    """
    content = _content(response, max_bytes)
    if isinstance(content, bytes):
        return replace(response, body=content)
    return replace(response, body=b"") if response.status == 429 else content


def _content(response: Response, max_bytes: int) -> bytes | Unknown:
    names = response.headers.get("Content-Encoding", "").lower().split(",")
    codings = [name.strip() for name in names if name.strip() not in ("", "identity")]
    if not codings or not response.body:
        return response.body
    if codings not in (["gzip"], ["x-gzip"]):
        shown = codings[0] if len(codings) == 1 and NAME.fullmatch(codings[0]) else "another one"
        return _unreadable(response, f"its content coding is not gzip but {shown}")
    try:
        with gzip.GzipFile(fileobj=BytesIO(response.body)) as file:
            content = file.read(max_bytes + 1)
    except (OSError, EOFError, zlib.error):
        return _unreadable(response, "its gzip data are cut off or malformed")
    if len(content) > max_bytes:
        return _unreadable(response, f"its gzip data hold more than {max_bytes} bytes")
    return content


def _unreadable(response: Response, reason: str) -> Unknown:
    return Unknown(detail=f"the response has status {response.status} but cannot be read: {reason}")
