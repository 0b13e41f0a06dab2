"""Write down which code each stage runs, so that an edit reruns only the stages it affects."""

from pipeline.runtime import code
from pipeline.runtime.command import run
from pipeline.store import artifacts


def main() -> None:
    """Write a file of digests for each stage."""
    sources, chosen = code.read_sources(), artifacts.load_json(artifacts.METHOD)
    for file in sorted(sources):
        if file.parts[0] == "stages" and file.stem not in ("__init__", "method", "code"):
            artifacts.save_json(artifacts.code_file(file.stem), code.digests(file.stem, sources, chosen))


if __name__ == "__main__":
    run(main)
