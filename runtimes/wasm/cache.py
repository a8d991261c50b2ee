"""Where compiled guests are kept between starts."""

import os
from pathlib import Path


def private_cache() -> Path:
    """A folder of ours alone for compiled code, which is run as it is found. Raise PermissionError if it is not."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    cache = Path(base, "toolexec", "wasm")
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    status = cache.stat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise PermissionError(f"{cache} can be written by others; remove it or set XDG_CACHE_HOME to a private folder")
    return cache
