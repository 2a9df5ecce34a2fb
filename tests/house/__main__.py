"""Prints the house: its rooms by level, their sizes, and what each imports. `python -m tests.house`"""

from __future__ import annotations

from tests.house.rooms import MODULES, ORDER, imports_of, levels_of_rooms, room_of

levels = levels_of_rooms()
for room in ORDER:
    modules = [module for module in MODULES if room_of(module) == room]
    lines = sum(len(MODULES[module].read_text().splitlines()) for module in modules)
    used = {room_of(each) for module in modules for each in imports_of(module)} - {room}
    print(
        f"{levels[room]:2} {room:14} {len(modules):3} modules {lines:6} lines  imports {', '.join(sorted(used)) or '-'}"
    )
arrows = sum(len(imports_of(module)) for module in MODULES)
lines = sum(len(path.read_text().splitlines()) for path in MODULES.values())
print(
    f"{len(ORDER)} rooms on {1 + max(levels.values())} levels, {len(MODULES)} modules, {lines} lines, {arrows} imports"
)
