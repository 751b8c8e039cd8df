"""Print the rooms of `fktext/` and the arrows between them: who imports whom, and whether any goes round in a circle.

    python benchmarks/rooms.py

A room is a file or folder at the top of the package. Imports inside functions count like any other.
"""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

import grimp


def arrows(package: str = "fktext") -> dict[str, set[str]]:
    """Each room with the rooms it imports."""
    graph = grimp.build_graph(package)
    rooms: dict[str, set[str]] = {module.split(".")[1]: set() for module in graph.modules if "." in module}
    for module in graph.modules - {package}:
        for imported in graph.find_modules_directly_imported_by(module) - {package}:
            rooms[module.split(".")[1]].add(imported.split(".")[1])
    return {room: found - {room} for room, found in sorted(rooms.items())}


def main() -> None:
    found = arrows()
    for room, below in found.items():
        print(f"{room:10} -> {', '.join(sorted(below)) or '-'}")
    try:
        order = list(TopologicalSorter(found).static_order())
        circles = "no circle; from the ground up: " + ", ".join(order)
    except CycleError as error:
        circles = f"a circle: {' -> '.join(error.args[1])}"
    print(f"{len(found)} rooms, {sum(map(len, found.values()))} arrows, {circles}")


if __name__ == "__main__":
    main()
