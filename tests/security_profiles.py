"""The tables of docs/security-profiles.md, from what the backends say they can do here.

`python -m tests.security_profiles` writes them again, on a machine where every backend is usable, run as root.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from runtimes.base import Capabilities
from runtimes.limits import LIMIT_NAMES, SHARED, Limits
from sandbox import Exec, PolicyDenied
from sandbox.policy import Wanted, decide
from sandbox.profile import PROFILES, Profile

PAGE = Path(__file__).parent.parent / "docs" / "security-profiles.md"
BACKENDS = ("unsafe", "docker", "wasm", "gvisor")
"""In the order of the columns: by what a guest must break."""

LANGUAGES = ("python", "bash", "javascript")
PLACE = re.compile(r"<!-- (\w+) -->\n.*?<!-- end -->", re.DOTALL)

Cell = Callable[[Capabilities], str]


def tables(found: Mapping[str, Capabilities]) -> dict[str, str]:
    """Each table as Markdown, by the name that marks its place."""
    return {
        "profiles": table("profile", found, {f"`{name}`": _permits(profile) for name, profile in PROFILES.items()}),
        "limits": table("limit", found, {f"`{name}`": _holds(name) for name in LIMIT_NAMES}),
        "languages": table("language", found, {name: _speaks(name) for name in LANGUAGES}),
    }


def table(title: str, found: Mapping[str, Capabilities], rows: Mapping[str, Cell]) -> str:
    """One column for each backend."""
    lines = [(title, *BACKENDS), ("---",) * (len(BACKENDS) + 1)]
    lines += [(name, *(cell(found[kind]) for kind in BACKENDS)) for name, cell in rows.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def columns(markdown: str) -> dict[str, list[str]]:
    """A table's columns by their first cell."""
    rows: Iterable[list[str]] = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines()
    )
    return {column[0]: [*column[2:]] for column in map(list, zip(*rows, strict=True))}


def written() -> dict[str, str]:
    """The tables that the page has, by name."""
    return {
        match[1]: match[0].partition("\n")[2].removesuffix("\n<!-- end -->")
        for match in PLACE.finditer(PAGE.read_text())
    }


def _permits(profile: Profile) -> Cell:
    def cell(found: Capabilities) -> str:
        if _refuses(profile, found, allow_unsafe=True):
            return "refused"
        return "if the operator allows it" if _refuses(profile, found, allow_unsafe=False) else "yes"

    return cell


def _holds(name: str) -> Cell:
    return lambda found: "held" if name in SHARED | found.enforces else "not held"


def _speaks(language: str) -> Cell:
    return lambda found: "yes" if language in found.languages else "no"


def _refuses(profile: Profile, found: Capabilities, *, allow_unsafe: bool) -> bool:
    """What policy itself says."""
    try:
        decide(profile, Wanted("python", found.kind, Limits()), {found.kind: found}, allow_unsafe=allow_unsafe)
    except PolicyDenied:
        return True
    return False


def main() -> None:
    with Exec() as exec:
        fresh = tables(exec.probe())
    PAGE.write_text(PLACE.sub(lambda match: f"<!-- {match[1]} -->\n{fresh[match[1]]}\n<!-- end -->", PAGE.read_text()))


if __name__ == "__main__":
    main()
