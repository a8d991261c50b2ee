"""What groups of tools have learnt, in the store of an Exec from one process to the next."""

import logging

from gateway.errors import InvalidRequest, ToolUnavailable
from gateway.payload import NotJsonError, decode, encode
from gateway.policies.store import Store
from gateway.selection import Selection

_log = logging.getLogger(__name__)


async def recall(selection: Selection, store: Store, key: str) -> bool:
    """Go on from what is there; whether it could be asked for. What cannot be read is left alone, and logged."""
    try:
        found = await store.get(key)
        if found is not None:
            state = decode(found)
            selection.load(state if isinstance(state, dict) else {})
    except (ToolUnavailable, NotJsonError, InvalidRequest) as error:
        _log.warning("what groups of tools have learnt could not be read: %s", error)
        return False
    return True


async def keep(selection: Selection, store: Store, key: str) -> None:
    """Put it there for good; an Exec that closes is not held up by a store that does not answer."""
    try:
        await store.set(key, encode(selection.state()), None)
    except ToolUnavailable as error:
        _log.warning("what groups of tools have learnt could not be kept: %s", error)
