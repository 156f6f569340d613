"""The graph of tasks, read level by level: one indexed query for some hundred tasks of a level."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from pymongo.asynchronous.collection import AsyncCollection

from hive.errors import TaskNotFound
from hive.graphs import Direction, Edge, Graph, Node
from hive.tasks import TaskStatus
from storage.mongo.client import Document, guarded

NAMED_AT_ONCE: Final = 500
_DEPENDS: Final = {"dependencies.0": {"$exists": True}}
# As the index `depended_upon` has it: most tasks depend on nothing and are not in it.
_SHOWN: Final = {"name": True, "status": True, "owner": True, "cancel_requested": True}


class MongoGraphs:
    """The port `hive.graphs.Graphs`."""

    def __init__(self, tasks: AsyncCollection[Document]) -> None:
        self._tasks = tasks

    async def read(
        self, task_id: str, direction: Direction, *, depth: int, most_edges: int
    ) -> Graph:
        """As the port says."""
        graph = Graph(most_edges)
        await self._add_nodes(graph, [task_id])
        if task_id not in graph.nodes:
            raise TaskNotFound
        if direction is not Direction.DOWN:
            await self._walk(graph, task_id, depth, up=True)
        if direction is not Direction.UP:
            await self._walk(graph, task_id, depth, up=False)
        return graph

    async def _walk(self, graph: Graph, task_id: str, depth: int, *, up: bool) -> None:
        level, reached = [task_id], {task_id}
        for _ in range(depth):
            found: list[str] = []
            for some in _in_parts(level):
                found += await (self._above(graph, some) if up else self._below(graph, some))
                if graph.truncated:
                    return
            level = [one for one in dict.fromkeys(found) if one not in reached]
            reached.update(level)
            if not level:
                return

    @guarded
    async def _below(self, graph: Graph, task_ids: Sequence[str]) -> list[str]:
        """Add what depends on these tasks, and by which edges."""
        wanted = {"$literal": list(task_ids)}
        cursor = await self._tasks.aggregate(
            [
                {"$match": {"dependencies": {"$in": list(task_ids)}, **_DEPENDS}},
                {"$limit": graph.room + 1},
                {"$project": {**_SHOWN, "on": {"$setIntersection": ["$dependencies", wanted]}}},
            ]
        )
        found: list[str] = []
        async for row in cursor:
            for dependency in row["on"]:
                if not graph.add(Edge(dependency, row["_id"])):
                    return found
                graph.nodes.setdefault(row["_id"], _node(row))
            found.append(row["_id"])
        return found

    async def _above(self, graph: Graph, task_ids: Sequence[str]) -> list[str]:
        """Add what these tasks depend on."""
        edges = await self._edges_up(task_ids, graph.room + 1)
        if len(edges) > graph.room:
            graph.truncated = True
            edges = edges[: graph.room]
        await self._add_nodes(graph, dict.fromkeys(edge.dependency for edge in edges))
        # Old tasks are deleted; what depended on them stays.
        there = [edge for edge in edges if edge.dependency in graph.nodes]
        return [edge.dependency for edge in there if graph.add(edge)]

    @guarded
    async def _edges_up(self, task_ids: Sequence[str], limit: int) -> list[Edge]:
        cursor = await self._tasks.aggregate(
            [
                {"$match": {"_id": {"$in": list(task_ids)}, **_DEPENDS}},
                {"$project": {"dependencies": True}},
                {"$unwind": "$dependencies"},
                {"$limit": limit},
            ]
        )
        return [Edge(row["dependencies"], row["_id"]) async for row in cursor]

    async def _add_nodes(self, graph: Graph, task_ids: Sequence[str] | dict[str, None]) -> None:
        missing = [task_id for task_id in task_ids if task_id not in graph.nodes]
        for some in _in_parts(missing):
            for node in await self._nodes(some):
                graph.nodes[node.task_id] = node

    @guarded
    async def _nodes(self, task_ids: Sequence[str]) -> list[Node]:
        found = self._tasks.find({"_id": {"$in": list(task_ids)}}, _SHOWN)
        return [_node(row) async for row in found]


def _node(row: Document) -> Node:
    return Node(
        row["_id"],
        row["name"],
        TaskStatus(row["status"]),
        row["owner"],
        row.get("cancel_requested", False),
    )


def _in_parts(task_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(task_ids), NAMED_AT_ONCE):
        yield task_ids[start : start + NAMED_AT_ONCE]
