"""Which DVC is running: it names its process in a lock file while it reads or writes a stage's files."""

import json
from pathlib import Path

RWLOCK = Path(".dvc/tmp/rwlock")


def lock_holders(lock: Path = RWLOCK) -> dict[int, str] | None:
    """Processes that the lock file names, each once, and their commands. None if the file can't be read, because it is
    damaged or because another DVC is writing it.
    """
    try:
        locks = json.loads(lock.read_text())
        # One process per written path, several per read one: a `dvc repro` stands there once per file of its stage.
        readers = [reader for of_path in locks.get("read", {}).values() for reader in of_path]
        return {int(holder["pid"]): str(holder["cmd"]) for holder in [*locks.get("write", {}).values(), *readers]}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError, KeyError, TypeError):
        return None
