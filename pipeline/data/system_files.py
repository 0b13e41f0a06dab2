"""Files and folders that no user put among the images: hidden ones, and leftovers of file browsers and archivers."""

_NAMES = frozenset(
    {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "$recycle.bin", "lost+found"}
)


def is_of_system(name: str) -> bool:
    """Whether a file or folder of this name is one of them."""
    return name.startswith(".") or name.casefold() in _NAMES
