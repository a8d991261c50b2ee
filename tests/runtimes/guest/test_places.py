"""Places of calls: the same for the same code, whatever comes first."""

import asyncio
import random
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from runtimes.guest.places import MAX_PATH, Places


def run(make: Callable[[Places], Coroutine[Any, Any, Any]]) -> Any:
    places = Places()

    def new_loop() -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        places.watch(loop)
        return loop

    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(make(places))


def test_calls_without_a_task_are_counted() -> None:
    places = Places()
    assert [places.site("run_tool") for _ in range(3)] == ["root#0", "root#1", "root#2"]


def test_reading_a_stream_does_not_count() -> None:
    places = Places()
    operations = ("open_stream", "read_stream", "read_stream", "close_stream", "run_tool")
    assert [places.site(operation) for operation in operations] == ["root#0", "", "", "", "root#1"]


def test_a_task_counts_its_own_calls_and_children_in_the_order_of_the_code() -> None:
    async def main(places: Places) -> dict[int, list[str]]:
        sites: dict[int, list[str]] = {}

        async def one(n: int) -> None:
            await asyncio.sleep(random.random() / 100)
            sites[n] = [places.site("run_tool"), places.site("run_tool")]

        await asyncio.gather(*map(one, range(4)))
        sites[-1] = [places.site("run_tool")]
        return sites

    wanted = {n: [f"root.0.{n}#0", f"root.0.{n}#1"] for n in range(4)} | {-1: ["root.0#0"]}
    assert all(run(main) == wanted for _ in range(3))


def test_a_guest_sees_ordinary_tasks() -> None:
    async def main(places: Places) -> str:
        del places
        task = asyncio.current_task()
        assert isinstance(task, asyncio.Task)
        return type(task).__name__

    assert run(main) == "Task"


def test_a_deep_path_stays_short_and_unique() -> None:
    async def down(places: Places, depth: int) -> list[str]:
        below = await asyncio.create_task(down(places, depth - 1)) if depth else []
        return [places.site("run_tool"), *below]

    sites = run(lambda places: down(places, 150))
    assert len(set(sites)) == 151
    assert max(map(len, sites)) < MAX_PATH + 20


def test_another_thread_has_no_place() -> None:
    places, sites = Places(), []
    thread = threading.Thread(target=lambda: sites.append(places.site("run_tool")))
    thread.start()
    thread.join()
    assert sites == [""]
