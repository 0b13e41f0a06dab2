"""A real Slurm on one machine: one controller and two nodes of one core, in a folder of their own."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "sinfo")  # of the packages slurm-wlm and munge
_NODES = ("node-0", "node-1")


def reason_against_slurm() -> str:
    """Why no Slurm can run here; empty if one can."""
    missing = [program for program in PROGRAMS if shutil.which(program, path=_path()) is None]
    if missing:
        return f"no {', '.join(missing)}: apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "only root can start Slurm's daemons"


def _path() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])


@contextlib.contextmanager
def slurm_cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Environment variables with which sbatch and squeue find the cluster."""
    folder.mkdir()
    (folder / "key").write_bytes(os.urandom(128))
    (folder / "key").chmod(0o400)
    (folder / "slurm.conf").write_text(_configuration(folder))
    environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": _path()}
    own = {"socket": "munge.socket", "pid-file": "munge.pid", "log-file": "munge.log", "seed-file": "munge.seed"}
    files = [f"--{option}={folder / name}" for option, name in own.items()]
    commands = [["munged", "--foreground", "--force", f"--key-file={folder / 'key'}", *files], ["slurmctld", "-D"]]
    commands += [["slurmd", "-D", "-N", name] for name in _NODES]
    with contextlib.ExitStack() as daemons:
        for command in commands:
            log = daemons.enter_context((folder / f"{command[0]}.out").open("ab"))
            daemons.enter_context(_daemon(command, environment, log.fileno()))
            while command[0] == "munged" and not (folder / "munge.socket").exists():
                time.sleep(0.1)
        while _idle(environment) < len(_NODES):
            time.sleep(0.2)
        yield {name: environment[name] for name in ("SLURM_CONF", "PATH")}


def _idle(environment: dict[str, str]) -> int:
    shown = subprocess.run(
        ["sinfo", "-h", "-N", "-t", "idle"], env=environment, capture_output=True, text=True, check=False
    )
    return len(shown.stdout.splitlines())


@contextlib.contextmanager
def _daemon(command: list[str], environment: dict[str, str], output: int) -> Iterator[None]:
    process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def _configuration(folder: Path) -> str:
    ports = [_free_port() for _ in range(1 + len(_NODES))]
    host = socket.gethostname()
    lines = [
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1"
        for name, port in zip(_NODES, ports[1:], strict=True)
    ]
    return "\n".join(
        [
            "ClusterName=test",
            f"SlurmctldHost={host}(127.0.0.1)",
            f"SlurmctldPort={ports[0]}",
            "SlurmUser=root",
            "SlurmdUser=root",
            "AuthType=auth/munge",
            f"AuthInfo=socket={folder}/munge.socket",
            f"StateSaveLocation={folder}/state",
            f"SlurmdSpoolDir={folder}/spool-%n",
            f"SlurmctldPidFile={folder}/controller.pid",
            f"SlurmdPidFile={folder}/%n.pid",
            "ProctrackType=proctrack/linuxproc",
            "TaskPlugin=task/none",
            "MpiDefault=none",
            "SelectType=select/linear",
            "ReturnToService=2",
            *lines,
            "PartitionName=all Nodes=ALL Default=YES State=UP",
            "",
        ]
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
