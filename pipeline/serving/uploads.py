"""Reads the pictures of a request: never more bytes or files than allowed, and never on disk."""

from collections.abc import AsyncGenerator

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request


class _InMemory(MultiPartParser):  # type: ignore[misc]
    """Starlette moves a file to disk above this size, which no upload reaches."""

    spool_max_size = 2**40


async def read_pictures(request: Request, *, most_bytes: int, most_pictures: int) -> list[tuple[str, bytes]]:
    """Name and bytes of each picture: the files of a form, or the body itself.

    Raises HTTPException: 413 for more bytes or pictures than allowed, 400 for a body that is damaged or empty.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > most_bytes:
        raise _too_large(most_bytes)
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        body = b"".join([chunk async for chunk in _bounded(request, most_bytes)])
        if not body:
            raise HTTPException(400, "the request has no picture")
        return [("picture", body)]
    parser = _InMemory(request.headers, _bounded(request, most_bytes), max_files=most_pictures, max_fields=0)
    try:
        form = await parser.parse()
        found = [
            (file.filename or "picture", await file.read())
            for _, file in form.multi_items()
            if isinstance(file, UploadFile)
        ]
        await form.close()
    except MultiPartException as error:
        many = "Too many files" in error.message
        reason = f"more than {most_pictures} pictures" if many else f"the form is damaged: {error.message}"
        raise HTTPException(413 if many else 400, reason) from None
    if not found:
        raise HTTPException(400, "the form has no picture")
    return found


async def _bounded(request: Request, most_bytes: int) -> AsyncGenerator[bytes, None]:
    """The body in pieces, until there is too much of it."""
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
        if total > most_bytes:
            raise _too_large(most_bytes)
        yield chunk


def _too_large(most_bytes: int) -> HTTPException:
    return HTTPException(413, f"more than {most_bytes / 1e6:g} MB")
