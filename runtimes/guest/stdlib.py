"""CPython's standard library and time zones inside the guest's snapshot: at run time a WASM guest has no files.

Everything is compiled when the guest is built and kept compressed; `install` puts an importer for it last in line.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import io
import marshal
import os
import sys
import types
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

SKIP = frozenset(
    {"test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "site-packages", "__pycache__", "pydoc_data"}
)

Baked = dict[str, tuple[bool, bytes]]


def bake(root: Path) -> Baked:
    """Compile every module below `root`: its name, whether it is a package, its code, compressed."""
    baked: Baked = {}
    for path in _files(root):
        if path.suffix == ".py":
            dotted = ".".join(path.relative_to(root).with_suffix("").parts)
            code = compile(path.read_text("utf-8"), f"<stdlib>/{dotted}.py", "exec", dont_inherit=True)
            is_package = path.name == "__init__.py"
            baked[dotted.removesuffix(".__init__")] = (is_package, zlib.compress(marshal.dumps(code), 9))
    return baked


def bake_data(root: Path, package: str) -> bytes:
    """A zip archive of the files of a data package below `root`, modules left out."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        for path in _files(root / package):
            if path.suffix not in {".py", ".pyc"}:
                out.write(path, path.relative_to(root).as_posix())
    return archive.getvalue()


def _files(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(set(folders) - SKIP)
        yield from (Path(folder, name) for name in sorted(names))


class BakedImporter(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports what `bake` made; data files of packages come from one zip archive."""

    def __init__(self, baked: Baked, data: bytes) -> None:
        self._baked = baked
        self._data = data

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        del path, target  # names are enough: nothing is searched for
        entry = self._baked.get(name)
        if entry is None:
            return None
        return importlib.util.spec_from_loader(name, self, is_package=entry[0], origin="<stdlib>")

    def exec_module(self, module: types.ModuleType) -> None:
        exec(marshal.loads(zlib.decompress(self._baked[module.__name__][1])), module.__dict__)  # noqa: S302 - we marshalled it

    def get_resource_reader(self, name: str) -> "BakedFiles":
        return BakedFiles(self._data, name.replace(".", "/") + "/")


class BakedFiles:
    """What importlib.resources asks of a package with data files."""

    def __init__(self, data: bytes, at: str) -> None:
        self._data = data
        self._at = at

    def files(self) -> zipfile.Path:
        return zipfile.Path(zipfile.ZipFile(io.BytesIO(self._data)), self._at)


def install(baked: Baked, data: bytes) -> None:
    sys.meta_path.append(BakedImporter(baked, data))
