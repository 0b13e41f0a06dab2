"""Pointers of Git LFS: a few lines of text that a clone without `git lfs` has in place of a large file."""

ADVICE = "is a pointer of Git LFS, not the file itself: `git lfs pull` fetches that"

_FIRST_LINE = b"version https://git-lfs.github.com/spec/"
HEAD = len(_FIRST_LINE)  # bytes of a file that tell


def is_pointer(head: bytes) -> bool:
    """Whether a file that begins with these bytes is a pointer."""
    return head.startswith(_FIRST_LINE)
