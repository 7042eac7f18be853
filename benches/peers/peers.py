#!/usr/bin/env python3
"""Gangsaw beside its peers: the same work on the same machine in one run, as one table.

    benches/peers/peers.py [--gangsaw target/release/gangsaw] [--tasks 10000] [--slow-tasks 60] [--only gangsaw,slurm]

What is measured, for each scheduler on one node with two cores, the output of tasks kept where it can be:

- array: N tasks `true` in one submission, from the start of the submission until all have ended;
- start: the command line's submit of one job on an idle cluster until the job's first instruction;
- submits: the command line, one job after the other.

Ray and Dask have no command line for tasks: for them a warm client submits, and each task spawns `true`, so that the
same processes are started. The floor is a loop that spawns `true` and waits for it, twice at once, with no scheduler.

A peer that is not installed is a row that says so; nothing is estimated. Where they come from:

- HyperQueue: the executable named by the environment variable HQ (the wheel on PyPI holds only its library).
- Slurm: Debian's `slurm-wlm` and `munge`, started here privately: own key, sockets, ports and folders. Needs root.
- Ray and Dask: `pip install ray dask distributed` for the interpreter named by PEERS_PYTHON (default: this one).

Only the standard library is used. Everything that is started is ended by its process id.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# A peer that has not come up, or not finished one measurement, after so long is an error in its row.
DEADLINE_S = 300
CORES = 2
STARTS = 20
SUBMITS = 50


class Absent(Exception):
    """Why a peer cannot run here."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(what, look):
    """Looks again and again until there is something to see."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        seen = look()
        if seen:
            return seen
        time.sleep(0.005)
    raise TimeoutError(f"not seen within {DEADLINE_S} s: {what}")


class Peer:
    """A scheduler in a folder of its own. Its methods measure; `close` ends all of it."""

    name = "?"
    # Tasks of the array; a slow scheduler gets fewer.
    slow = False

    def __init__(self, folder):
        self.folder = Path(folder)
        self.env = dict(os.environ)
        self.daemons = []
        self.bin = self.folder / "stamp"
        self.bin.write_text("#!/bin/sh\nexec date +%s%N > \"$1\"\n")
        self.bin.chmod(0o755)

    def start(self):
        raise NotImplementedError

    def daemon(self, *argv, **options):
        log = open(self.folder / f"{Path(argv[0]).name}.log", "ab")
        options = {"stdout": log, "stderr": log, "env": self.env, **options}
        child = subprocess.Popen([str(arg) for arg in argv], stdin=subprocess.DEVNULL, **options)
        self.daemons.append(child)
        return child

    def run(self, *argv):
        done = subprocess.run(
            [str(arg) for arg in argv], env=self.env, cwd=self.folder, capture_output=True, text=True, timeout=DEADLINE_S
        )
        if done.returncode != 0:
            raise RuntimeError(f"{argv[0]}: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")
        return done.stdout

    def array(self, count):
        """Seconds for `count` tasks `true`."""
        raise NotImplementedError

    def submit(self, *command):
        """Submits one job by the command line, and returns once it is accepted."""
        raise NotImplementedError

    def idle(self):
        """Returns once no job is left."""
        raise NotImplementedError

    def starts(self, count):
        """Milliseconds from submit to the first instruction, each on an idle cluster."""
        found = []
        for number in range(count):
            stamp = self.folder / f"stamp-{number}"
            begin = time.time_ns()
            self.submit(self.bin, stamp)
            text = until("the stamp", lambda: stamp.exists() and stamp.read_text().strip())
            found.append((int(text) - begin) / 1e6)
            self.idle()
        return found

    def submits(self, count):
        """Submits a second, one after the other."""
        begin = time.monotonic()
        for _ in range(count):
            self.submit("true")
        rate = count / (time.monotonic() - begin)
        self.idle()
        return rate

    def close(self):
        for child in reversed(self.daemons):
            if child.poll() is None:
                child.terminate()
                try:
                    child.wait(15)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()


class Gangsaw(Peer):
    name = "gangsaw"
    executable = None

    def start(self):
        if not os.access(self.executable, os.X_OK):
            raise Absent(f"{self.executable} is not there: cargo build --release")
        self.env["XDG_STATE_HOME"] = str(self.folder / "xdg")
        self.env["XDG_CONFIG_HOME"] = str(self.folder / "config")
        up = [self.executable, "up", "--state", self.folder / "state", "--listen", "127.0.0.1:0", "--output", "jsonl"]
        child = self.daemon(*up, stdout=subprocess.PIPE)
        self.env["GANGSAW_SERVER"] = json.loads(child.stdout.readline())["server"]
        until("a node", lambda: any(node["connected"] for node in self.json("nodes")["nodes"]))

    def json(self, *argv):
        return json.loads(self.run(self.executable, *argv, "--output", "json"))

    def array(self, count):
        begin = time.monotonic()
        job = self.run(self.executable, "submit", "--array", f"0-{count - 1}", "--", "true").strip()
        self.run(self.executable, "wait", job)
        took = time.monotonic() - begin
        counts = self.json("show", job)["element_counts"]
        if counts != {"COMPLETED": count}:
            raise RuntimeError(f"the array came to {counts}")
        return took

    def submit(self, *command):
        self.run(self.executable, "submit", "--", *command)

    def idle(self):
        until("an empty queue", lambda: not self.json("ps")["jobs"])


class HyperQueue(Peer):
    name = "HyperQueue"

    def start(self):
        self.executable = os.environ.get("HQ", "")
        if not self.executable:
            raise Absent("HQ does not name its executable")
        self.env["HQ_SERVER_DIR"] = str(self.folder / "server")
        self.daemon(self.executable, "server", "start", "--journal", self.folder / "journal")
        until("the server", lambda: self.works("server", "info"))
        self.daemon(self.executable, "worker", "start", f"--cpus={CORES}")
        until("a worker", lambda: "RUNNING" in self.run(self.executable, "worker", "list"))

    def works(self, *argv):
        with contextlib.suppress(RuntimeError):
            return self.run(self.executable, *argv) or True

    def array(self, count):
        begin = time.monotonic()
        self.run(self.executable, "submit", "--wait", f"--array=0-{count - 1}", "--", "true")
        return time.monotonic() - begin

    def submit(self, *command):
        self.run(self.executable, "submit", "--", *command)

    def idle(self):
        self.run(self.executable, "job", "wait", "all")


class Slurm(Peer):
    name = "Slurm"
    slow = True

    def start(self):
        missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch", "squeue") if not self.path(name)]
        if missing:
            raise Absent(f"no {', '.join(missing)}: apt-get install slurm-wlm munge")
        if os.geteuid() != 0:
            raise Absent("a private slurmd needs root")
        # munged wants folders that nobody else can write to and everybody can enter.
        self.folder.chmod(0o755)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        munge = self.folder / "munge.sock"
        places = [f"--{what}={self.folder / f'munge.{end}'}" for what, end in
                  (("socket", "sock"), ("pid-file", "pid"), ("log-file", "log"), ("seed-file", "seed"))]
        self.daemon(self.path("munged"), "--foreground", "--force", f"--key-file={key}", *places)
        until("munged", munge.exists)
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        conf = self.folder / "slurm.conf"
        conf.write_text(self.configuration(munge))
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=autodetect\nIgnoreSystemd=yes\n")
        self.env["SLURM_CONF"] = str(conf)
        self.daemon(self.path("slurmctld"), "-D", "-i", "-f", conf)
        until("slurmctld", lambda: self.works("scontrol", "ping"))
        self.daemon(self.path("slurmd"), "-D", "-f", conf, "-N", socket.gethostname())
        until("an idle node", lambda: "idle" in (self.works("sinfo", "-h", "-o", "%T") or ""))

    def configuration(self, munge):
        host = socket.gethostname()
        lines = {
            "ClusterName": "peers", "SlurmctldHost": f"{host}(127.0.0.1)", "SlurmUser": "root", "SlurmdUser": "root",
            "AuthType": "auth/munge", "AuthInfo": f"socket={munge}", "CredType": "cred/munge",
            "SlurmctldPort": free_port(), "SlurmdPort": free_port(),
            "StateSaveLocation": self.folder / "state", "SlurmdSpoolDir": self.folder / "spool",
            "SlurmctldPidFile": self.folder / "slurmctld.pid", "SlurmdPidFile": self.folder / "slurmd.pid",
            "ProctrackType": "proctrack/linuxproc", "TaskPlugin": "task/none", "SwitchType": "switch/none",
            "MpiDefault": "none", "SelectType": "select/cons_tres", "SelectTypeParameters": "CR_CPU",
            "ReturnToService": 2, "MaxArraySize": 100001, "MaxJobCount": 200000,
            "SchedulerParameters": "sched_min_interval=0,batch_sched_delay=0",
            "JobAcctGatherType": "jobacct_gather/none", "AccountingStorageType": "accounting_storage/none",
            "NodeName": f"{host} NodeAddr=127.0.0.1 CPUs={CORES} State=UNKNOWN",
            "PartitionName": "all Nodes=ALL Default=YES MaxTime=INFINITE State=UP",
        }
        return "".join(f"{key}={value}\n" for key, value in lines.items())

    def path(self, name):
        return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")

    def works(self, name, *argv):
        with contextlib.suppress(RuntimeError):
            return self.run(self.path(name), *argv) or True

    def sbatch(self, *argv):
        output = f"--output={self.folder}/out-%j"
        return self.run(self.path("sbatch"), "--parsable", output, *argv).strip()

    def array(self, count):
        begin = time.monotonic()
        self.sbatch(f"--array=0-{count - 1}", "--wrap", "true")
        self.idle()
        return time.monotonic() - begin

    def submit(self, *command):
        self.sbatch("--wrap", " ".join(str(word) for word in command))

    def idle(self):
        until("an empty queue", lambda: not self.run(self.path("squeue"), "-h").strip())


# What a library's client does: it prints one JSON object, and measures what `Peer` measures.
LIBRARY = r"""
import json, subprocess, sys, time
kind, tasks, starts, submits, folder = sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5]

def spawn(number):
    subprocess.run(["true"], check=True)

def stamp(number):
    return time.time_ns()

if kind == "ray":
    import logging, ray
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, _temp_dir=folder)
    work, first = ray.remote(num_cpus=1)(spawn), ray.remote(num_cpus=1)(stamp)
    submit, fetch = lambda remote, number: remote.remote(number), ray.get
else:
    from dask.distributed import Client, LocalCluster
    client = Client(LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=folder))
    work, first = spawn, stamp
    submit = lambda function, number: client.submit(function, number, pure=False)
    fetch = lambda found: client.gather(found)
fetch([submit(work, number) for number in range(8)])
begin = time.monotonic()
fetch([submit(work, number) for number in range(tasks)])
took = time.monotonic() - begin
found = []
for number in range(starts):
    at = time.time_ns()
    found.append((fetch(submit(first, number)) - at) / 1e6)
begin = time.monotonic()
all_of_them = [submit(work, number) for number in range(submits)]
rate = submits / (time.monotonic() - begin)
fetch(all_of_them)
print(json.dumps({"array": took, "starts": found, "submits": rate}))
"""


class Library(Peer):
    """Ray or Dask: all is measured by one client in their own interpreter."""

    module = "?"

    def start(self):
        self.python = os.environ.get("PEERS_PYTHON", sys.executable)
        needs = {"ray": "ray", "dask": "distributed"}[self.module]
        if subprocess.run([self.python, "-c", f"import {needs}"], capture_output=True).returncode != 0:
            raise Absent(f"{self.python} has no module {needs}: pip install {needs}")
        self.found = None
        self.env["RAY_USAGE_STATS_ENABLED"] = "0"

    def measure(self, tasks):
        script = self.folder / "client.py"
        script.write_text(f"{LIBRARY}\n") if self.module == "ray" else script.write_text(
            # Dask's workers import the script again.
            "if __name__ == '__main__':\n" + "".join(f"    {line}\n" for line in LIBRARY.splitlines())
        )
        argv = [self.python, script, self.module, tasks, STARTS, SUBMITS, self.folder]
        self.found = json.loads(self.run(*argv).splitlines()[-1])

    def array(self, count):
        self.measure(count)
        return self.found["array"]

    def starts(self, count):
        return self.found["starts"]

    def submits(self, count):
        return self.found["submits"]


class Ray(Library):
    name = "Ray"
    module = "ray"


class Dask(Library):
    name = "Dask"
    module = "dask"


def floor(seconds=3.0):
    """Processes a second that two loops spawn and wait for, with no scheduler between."""
    true = shutil.which("true")
    readers = []
    for _ in range(CORES):
        read, write = os.pipe()
        if os.fork() == 0:
            count, end = 0, time.monotonic() + seconds
            while time.monotonic() < end:
                os.waitpid(os.posix_spawn(true, ["true"], os.environ), 0)
                count += 1
            os.write(write, str(count).encode())
            os._exit(0)
        os.close(write)
        readers.append(read)
    counts = [int(os.read(read, 64)) for read in readers]
    for read in readers:
        os.close(read)
        os.wait()
    return sum(counts) / seconds


def measure(kind, tasks):
    """One peer's figures, or why there are none."""
    with tempfile.TemporaryDirectory(prefix="peers-", ignore_cleanup_errors=True) as folder:
        peer = kind(folder)
        try:
            peer.start()
            took = peer.array(tasks)
            return {"tasks": tasks, "rate": tasks / took, "starts": peer.starts(STARTS), "submits": peer.submits(SUBMITS)}
        except Absent as why:
            return {"absent": str(why)}
        except (OSError, RuntimeError, TimeoutError, subprocess.SubprocessError, ValueError) as why:
            return {"failed": f"{type(why).__name__}: {why}"}
        finally:
            peer.close()


def row(name, found, spawn, ours):
    if "rate" not in found:
        word = "absent" if "absent" in found else "failed"
        return f"| {name} | {word}: {found[word]} | | | | | |"
    starts = sorted(found["starts"])
    p50, p90 = statistics.median(starts), starts[int(len(starts) * 0.9)]
    beside = f"{ours / found['rate']:.2f} ×" if ours else ""
    return (
        f"| {name} | {found['rate']:,.0f} /s ({found['tasks']:,}) | {found['rate'] / spawn:.2f} | {beside} "
        f"| {p50:.1f} | {p90:.1f} | {found['submits']:,.0f} /s |"
    )


def main():
    parser = argparse.ArgumentParser(description="Gangsaw beside its peers, on this machine, in one run.")
    root = Path(__file__).resolve().parents[2]
    parser.add_argument("--gangsaw", type=Path, default=root / "target" / "release" / "gangsaw")
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--slow-tasks", type=int, default=60, help="tasks for a scheduler of a few tasks a second")
    parser.add_argument("--only", help="names of peers, such as gangsaw,slurm")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    Gangsaw.executable = args.gangsaw.resolve()
    kinds = [Gangsaw, HyperQueue, Slurm, Ray, Dask]
    if args.only:
        wanted = [name.strip().lower() for name in args.only.split(",")]
        kinds = [kind for kind in kinds if kind.name.lower() in wanted]
    before = floor()
    found = []
    for kind in kinds:
        found.append((kind.name, measure(kind, args.slow_tasks if kind.slow else args.tasks)))
        print(f"measured {kind.name}", file=sys.stderr)
    after = floor()
    spawn = (before + after) / 2
    ours = next((figures.get("rate") for name, figures in found if name == Gangsaw.name), None)
    print(f"{time.strftime('%Y-%m-%d %H:%M')}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; one node, {CORES} cores\n")
    print("| scheduler | array of `true` (tasks) | of the floor | gangsaw is | start p50 ms | p90 ms | submits |")
    print("|---|---|---|---|---|---|---|")
    print(f"| floor: spawn and wait, {CORES} loops | {spawn:,.0f} /s ({before:,.0f} before, {after:,.0f} after) | 1.00 | | | | |")
    for name, figures in found:
        print(row(name, figures, spawn, ours))
    print(
        "\nStart and submits: by the command line, process start included, each job durable where the scheduler stores any;"
        "\nfor Ray and Dask a call in a warm client, which returns before anything is stored or has reached a scheduler."
    )
    return 1 if any("failed" in figures for _, figures in found) else 0


if __name__ == "__main__":
    sys.exit(main())
