"""A Slurm of one node on this machine, of Debian's packages slurm-wlm and munge, for as long as a test session lasts."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("sbatch", "srun", "squeue", "scontrol", "sinfo", "slurmctld", "slurmd", "munged", "mungekey")
CONFIGURATION = """
ClusterName=cnnjax
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdSpoolDir={folder}/spool
StateSaveLocation={folder}/state
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=100000
KillWait=20
MinJobAge=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=short Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


def is_installed() -> bool:
    """Whether all that a small Slurm needs is there (Debian keeps daemons in sbin)."""
    os.environ["PATH"] += os.pathsep + "/usr/sbin"
    return all(shutil.which(name) for name in PROGRAMS)


@contextlib.contextmanager
def started(folder: Path) -> Iterator[dict[str, str]]:
    """Starts munged, slurmctld and slurmd; inside, the environment that finds them is this."""
    user, host = pwd.getpwuid(os.getuid()).pw_name, socket.gethostname().split(".")[0]
    for name in ("spool", "state"):
        (folder / name).mkdir()
    folder.chmod(0o755)
    ports = _free_ports(2)
    text = CONFIGURATION.format(user=user, host=host, folder=folder, ports=ports, cpus=os.cpu_count())
    (folder / "slurm.conf").write_text(text)
    subprocess.run(["mungekey", "--create", f"--keyfile={folder}/munge.key"], check=True)
    munge = [f"--{name}={folder}/munge.{end}" for name, end in MUNGE.items()]
    environment = dict(SLURM_CONF=f"{folder}/slurm.conf")
    whole = os.environ | environment
    answers = lambda: (
        "idle" in subprocess.run(["sinfo", "-h", "-o", "%T"], env=whole, capture_output=True, text=True).stdout
    )
    daemons = [  # each is waited for before the next
        (["munged", "--foreground", "--force", *munge], (folder / "munge.socket").exists),
        (["slurmctld", "-D", "-c"], lambda: _is_open(ports[0])),
        (["slurmd", "-D", "-c"], answers),
    ]
    running = []
    try:
        for command, is_ready in daemons:
            with (folder / f"{command[0]}.out").open("w") as log:
                running.append(subprocess.Popen(command, env=whole, stdout=log, stderr=log))
            end = time.monotonic() + 60
            while not is_ready():
                logs = "\n".join(path.read_text()[-2000:] for path in folder.glob("*.[lo]*[gt]"))
                assert time.monotonic() < end, f"Slurm did not start: {logs}"
                time.sleep(0.05)
        yield environment
    finally:
        subprocess.run(["scancel", f"--user={user}", "--signal=KILL"], env=whole, capture_output=True)
        for process in reversed(running):
            process.terminate()
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()


MUNGE = {"key-file": "key", "socket": "socket", "log-file": "log", "pid-file": "pid", "seed-file": "seed"}


def _is_open(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
