"""Records in memory: the newest executions, gone with the process."""

from collections import OrderedDict
from collections.abc import Sequence

from gateway.errors import InvalidRequest
from gateway.journal.base import Record


class MemoryJournal:
    """Keeps the records of the newest `max_executions` executions (default 1,000)."""

    def __init__(self, max_executions: int = 1000) -> None:
        if max_executions < 1:
            raise InvalidRequest(f"max_executions must be at least 1, not {max_executions}")
        self._max_executions = max_executions
        self._records: OrderedDict[str, list[Record]] = OrderedDict()

    async def append(self, record: Record) -> None:
        records = self._records.get(record.execution_id)
        if records is None:
            records = self._records[record.execution_id] = []
            while len(self._records) > self._max_executions:
                self._records.popitem(last=False)
        records.append(record)

    async def records(self, execution_id: str) -> Sequence[Record]:
        return tuple(self._records.get(execution_id, ()))

    async def aclose(self) -> None:
        self._records.clear()
