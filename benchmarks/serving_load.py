"""Many clients at once: python -m benchmarks.serving_load LEARNER PICTURES [--clients 8] [--seconds 60].

Starts `python -m pipeline serve`, asks it about the pictures of a folder from several clients at once, and compares
every answer with that of `Learner.predict`. Prints answers, wrong ones, and the server's memory over time.
"""

import json
import re
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Annotated

import psutil
import typer

from pipeline.prediction.learner import Learner
from pipeline.prediction.output import as_json

_SAMPLES = 12  # of the memory; the first is taken when the server is warm
_CLOSE = 1e-4  # a batch of other pictures rounds sums in another way


class Load:
    """Clients, and what they have seen."""

    def __init__(self, url: str, pictures: list[bytes], expected: list[dict[str, object]]) -> None:
        """expected: the answer for each picture."""
        self.url, self.pictures, self.expected = url, pictures, expected
        self.answers, self.wrong = 0, list[str]()
        self.over = threading.Event()

    def client(self, start: int) -> None:
        """Ask about one picture after the other."""
        index = start
        while not self.over.is_set():
            index = (index + 1) % len(self.pictures)
            request = urllib.request.Request(f"{self.url}/predict", self.pictures[index], {"Content-Type": "image/png"})
            with urllib.request.urlopen(request) as response:
                answer = json.load(response)["answers"][0]
            expected = self.expected[index]
            same = answer["class"] == expected["class"] and answer["task"] == expected["task"]
            if not same or abs(answer["probability"] - float(str(expected["probability"]))) > _CLOSE:
                self.wrong.append(f"{answer} instead of {expected}")
            self.answers += 1


def main(
    learner: Annotated[Path, typer.Argument(help="An exported learner.")],
    pictures: Annotated[Path, typer.Argument(help="A folder of PNG files.")],
    clients: int = 8,
    seconds: int = 60,
) -> None:
    """Print what the clients saw. Exits with 1 after a wrong answer."""
    contents = [path.read_bytes() for path in sorted(pictures.glob("*.png"))[:64]]
    expected = [as_json(answer) for answer in Learner.load(learner).predict(contents)]
    command = [sys.executable, "-m", "pipeline", "serve", str(learner), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout
    found = re.search(r"http://\S+", server.stdout.readline())
    assert found
    load = Load(found[0], contents, expected)
    threads = [threading.Thread(target=load.client, args=(7 * number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    memory = []
    for _ in range(_SAMPLES):
        time.sleep(seconds / _SAMPLES)
        memory.append(psutil.Process(server.pid).memory_info().rss / 2**20)
    load.over.set()
    for thread in threads:
        thread.join()
    server.terminate()
    server.wait()
    print(f"{load.answers} answers in {seconds} s by {clients} clients, {len(load.wrong)} wrong")
    print("server's memory (MiB):", ", ".join(f"{value:.0f}" for value in memory))
    if load.wrong:
        sys.exit(load.wrong[0])


if __name__ == "__main__":
    typer.run(main)
