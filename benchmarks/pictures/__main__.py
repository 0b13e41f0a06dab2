"""Write docs/pictures: every picture once for light pages and once for dark ones."""

from benchmarks.pictures import cost, rooms
from benchmarks.pictures.style import FOLDER, THEMES, to_svg
from pipeline.store import artifacts

PICTURES = {"cost": cost.draw, "rooms": rooms.draw}


def contents() -> dict[str, bytes]:
    """File name -> content of every picture. The same numbers give the same bytes."""
    return {
        f"{name}-{theme}.svg": to_svg(draw, colours)
        for name, draw in PICTURES.items()
        for theme, colours in THEMES.items()
    }


def main() -> None:
    """Write all pictures."""
    for name, content in contents().items():
        artifacts.save_bytes(FOLDER / name, content)
        print(f"written: {FOLDER.name}/{name}")


if __name__ == "__main__":
    main()
