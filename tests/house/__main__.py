"""Prints the house: its rooms by level, their sizes, and what each imports. `python -m tests.house`"""

from __future__ import annotations

from statistics import median

from tests.house.rooms import (
    MODULES,
    ORDER,
    code_lines,
    functions,
    imports_of,
    levels_of_rooms,
    room_of,
    single_use,
)

levels, lines = levels_of_rooms(), {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
for room in ORDER:
    modules = [module for module in MODULES if room_of(module) == room]
    used = {room_of(each) for module in modules for each in imports_of(module)} - {room}
    print(
        f"{levels[room]:2} {room:14} {len(modules):3} modules {sum(lines[module] for module in modules):6} lines  "
        f"imports {', '.join(sorted(used, key=ORDER.index)) or '-'}"
    )
arrows = sum(len(imports_of(module)) for module in MODULES)
total = f"{len(MODULES)} modules, {sum(lines.values())} lines, {arrows} imports"
print(f"{len(ORDER)} rooms on {1 + max(levels.values())} levels, {total}")
lengths = [code_lines(node) for _, node in functions()]
once = [code_lines(node) for _, node in single_use()]
print(
    f"{len(lengths)} functions, median {median(lengths):g} lines, longest {max(lengths)}; "
    f"{len(once)} private ones have one caller, {sum(length < 3 for length in once)} of these under three lines"
)
print("longest modules:", ", ".join(f"{name} {lines[name]}" for name in sorted(lines, key=lines.get)[:-8:-1]))
