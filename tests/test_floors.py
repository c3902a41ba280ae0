"""Imports run downward only; neighbours on one floor never import each other."""

import ast
from pathlib import Path

import outcrop

ROOT = Path(outcrop.__file__).parent
FLOORS = [
    {"types", "config", "errors", "progress"},
    {"database", "schema"},
    {"kernels", "run", "results", "replies"},
    {"model"},
    {"coders"},
    {"train", "latents", "interp", "metrics"},
    {"report"},
    {"stages", "contents", "judges", "notes", "trackers"},
    {"work"},
    {"pipeline"},
    {"console", "demo", "dashboard", "sweep"},
    {"cli"},
    {"__main__"},
]
FLOOR_OF = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    modules += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    parts = [module.split(".") for module in modules]
    from_root = [
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "outcrop"
        for alias in node.names
    ]
    return {part[1] for part in parts if part[0] == "outcrop" and len(part) > 1} | set(from_root)


def test_every_module_stands_on_a_floor() -> None:
    rooms = {room_of(path) for path in ROOT.rglob("*.py")} - {"__init__"}
    assert rooms == set(FLOOR_OF)


def test_imports_run_downward_only() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {other}"
        for path in ROOT.rglob("*.py")
        if room_of(path) != "__init__"
        for other in imported_rooms(path)
        if other != room_of(path)
        and FLOOR_OF[other] >= FLOOR_OF[room_of(path)]
        # types, config, errors and progress are the ground: they may stand on each other
        and not (FLOOR_OF[other] == FLOOR_OF[room_of(path)] == 0)
    ]
    assert not wrong


def test_a_floor_that_is_broken_would_be_seen(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text("from outcrop.report.page import y\nfrom outcrop import pipeline\nimport outcrop.cli\n")
    assert imported_rooms(path) == {"report", "pipeline", "cli"}


def test_no_public_name_is_hidden_by_a_room_of_the_same_name() -> None:
    assert not set(outcrop.__all__) & set(FLOOR_OF)
