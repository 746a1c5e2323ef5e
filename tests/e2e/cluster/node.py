"""The first process of a cluster's namespaces: it furnishes them, then runs the components and reaps what they orphan.

    unshare --mount --net --pid --uts --ipc --fork --kill-child python -m tests.e2e.cluster.node NUMBER

When it ends, for whatever reason, the kernel ends all the others in there and takes the mounts and links away. It
reads one line from stdin, which comes once the link to the host is there: `stay`, or `leave` to end when stdin is
closed, as when the process that started it has ended. Then it listens on the control socket; see `Supervisor`.
"""

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.cluster.layout import INSIDE, Network, State

# What the kubelet sets though it belongs to the whole machine.
SYSCTLS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
_RESTART_AFTER = 0.5  # seconds


@dataclass
class Component:
    """One supervised program. `pid` is its number in the namespace, while it runs."""

    name: str
    command: list[str]
    pid: int | None = None
    wanted: bool = True
    starts: int = 0
    start_at: float = 0.0


def main() -> None:
    number = int(sys.argv[1])
    network, state = Network(number), State.of(number)
    stay = sys.stdin.readline().strip() == "stay"
    _furnish(state)
    _connect(network)
    socket.sethostname(network.node_name)
    commands = json.loads((INSIDE / "commands.json").read_text())
    Supervisor([Component(name, command) for name, command in commands.items()], stay).run()


def _furnish(state: State) -> None:
    """Gives the namespace its own /run, /proc and /sys, and lets nothing written to /etc and /var reach the machine."""
    run = state.root / "run"
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", run)
    (run / INSIDE.name).mkdir()
    _mount("--bind", state.root, run / INSIDE.name)
    _mount("--move", run, INSIDE.parent)
    for folder in ("etc", "var"):
        upper, work = INSIDE / "overlay" / folder, INSIDE / "overlay" / f"{folder}.work"
        upper.mkdir(parents=True)
        work.mkdir()
        _mount("-t", "overlay", "overlay", "-o", f"lowerdir=/{folder},upperdir={upper},workdir={work}", f"/{folder}")
    _mount("-t", "proc", "proc", "/proc")
    _mount_sys()
    for name in SYSCTLS:
        sysctl, copy = Path("/proc/sys", name), INSIDE / "sysctl" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(sysctl.read_text())
        _mount("--bind", copy, sysctl)
    resolver = Path("/etc/resolv.conf")
    resolver.unlink(missing_ok=True)  # often a link into the machine's /run
    resolver.write_text((INSIDE / "config" / "node-resolv.conf").read_text())
    # Volumes with mount propagation need it; it ends at this namespace, which was private from the start.
    _mount("--make-rshared", "/")


def _mount_sys() -> None:
    """The machine's /sys shows the machine's network interfaces; the control groups are shared all the same."""
    sys_ = INSIDE / "sys"
    sys_.mkdir()
    _mount("-t", "sysfs", "sysfs", sys_)
    _mount("--rbind", "/sys/fs/cgroup", sys_ / "fs/cgroup")
    _mount("--move", sys_, "/sys")


def _mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", "--no-mtab", *arguments], check=True)


def _connect(network: Network) -> None:
    """Sets the node's end of the link. There is no default route: nothing leaves the machine."""
    for arguments in (
        "link set lo up",
        f"address add {network.node}/24 dev eth0",
        "link set eth0 up",
        # Any route will do for a Service's address: kube-proxy rewrites it on its way out.
        f"route add {network.services} dev lo src {network.node}",
    ):
        subprocess.run(["ip", *arguments.split()], check=True)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    bridged = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if bridged.exists():
        bridged.write_text("1")


class Supervisor:
    """Runs the components, starts those again that end, and does what the control socket says."""

    def __init__(self, components: list[Component], stay: bool) -> None:
        self._components = {component.name: component for component in components}
        self._selector = selectors.DefaultSelector()
        woken, wakes = socket.socketpair()
        for end in (woken, wakes):
            end.setblocking(False)
        signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._wakes = wakes  # kept open
        control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        control.bind(str(State.inside().control))
        control.listen()
        self._selector.register(woken, selectors.EVENT_READ, lambda: woken.recv(4096))
        self._selector.register(control, selectors.EVENT_READ, lambda: self._serve(control))
        if not stay:
            self._selector.register(sys.stdin, selectors.EVENT_READ, lambda: sys.exit("whoever started this has ended"))

    def run(self) -> None:
        while True:
            self._reap()
            self._start_due()
            for key, _ in self._selector.select(timeout=self._until_due()):
                key.data()

    def _reap(self) -> None:
        """Collects all that ended, orphans of containers among them."""
        by_pid = {component.pid: component for component in self._components.values()}
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if component := by_pid.get(ended[0]):
                    component.pid = None
                    component.start_at = time.monotonic() + _RESTART_AFTER
                    print(f"{component.name} ended: {os.waitstatus_to_exitcode(ended[1])}", flush=True)

    def _due(self) -> list[Component]:
        return [component for component in self._components.values() if component.wanted and component.pid is None]

    def _until_due(self) -> float | None:
        return min((max(0.0, component.start_at - time.monotonic()) for component in self._due()), default=None)

    def _start_due(self) -> None:
        for component in self._due():
            if component.start_at > time.monotonic():
                continue
            log = State.inside().logs / f"{component.name}.log"
            component.pid = os.posix_spawn(
                component.command[0],
                component.command,
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                ],
                setsid=True,
                setsigdef=[signal.SIGPIPE],
            )
            component.starts += 1

    def _serve(self, control: socket.socket) -> None:
        """Answers one request, a JSON object on a line, with the state of all components.

        `{"component": NAME, "wanted": BOOL, "signal": NUMBER}`, or `{}` to ask only. A bad one gets no answer.
        """
        connection, _ = control.accept()
        connection.settimeout(1)
        with connection, suppress(OSError, ValueError, KeyError), connection.makefile("rw") as stream:
            request = json.loads(stream.readline())
            if request:
                component = self._components[request["component"]]
                component.wanted = request["wanted"]
                component.start_at = 0.0
                if component.pid is not None and request["signal"]:
                    os.kill(component.pid, request["signal"])
            state = {name: {"pid": it.pid, "starts": it.starts} for name, it in self._components.items()}
            stream.write(json.dumps(state) + "\n")


if __name__ == "__main__":
    main()
