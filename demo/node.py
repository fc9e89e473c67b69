"""What every demo needs of Vouchsafe: the binaries, a server with a node agent, the operator's command line, and a
frame around the story that ends everything that was started."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from stage import DEADLINE_SECONDS, Failed, Process, Stage, until

DEMO = Path(__file__).resolve().parent
ROOT = DEMO.parent
NODE = "spiffe://example.org/node/demo"


def title(text):
    print(f"\n{text}", flush=True)


def line(text):
    print(f"   {text}", flush=True)


def quoted(text):
    for part in text.rstrip().splitlines():
        line(f"   | {part}")


def build():
    """The binaries, optimised; cargo shows its progress."""
    title("Building vouchsafe-server, vouchsafe-agent and vouchsafe (a few minutes the first time)")
    packages = [part for name in ("server", "agent", "launch", "cli") for part in ("-p", f"vouchsafe-{name}")]
    if subprocess.run(["cargo", "build", "--profile", "fast", "--bins", *packages], cwd=ROOT).returncode != 0:
        raise Failed("the binaries do not build")
    told = subprocess.run(["cargo", "metadata", "--no-deps", "--format-version", "1"], cwd=ROOT, check=True,
                          stdout=subprocess.PIPE).stdout
    return Path(json.loads(told)["target_directory"]) / "fast"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class Node:
    """A server and a node agent."""

    def __init__(self, binaries, stage):
        self.binaries = binaries
        self.stage = stage
        self.server_socket = stage.open / "private" / "server.sock"
        self.agent_socket = stage.open / "private" / "agent.sock"
        self.workload_socket = stage.open / "run" / "workload.sock"
        self.agent = None

    def vouchsafe(self, *arguments):
        """Run the operator's command line; returns exit code and output."""
        command = [str(part) for part in (self.binaries / "vouchsafe", *arguments)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, timeout=DEADLINE_SECONDS)
        return done.returncode, done.stdout

    def must(self, *arguments):
        code, output = self.vouchsafe(*arguments)
        if code != 0:
            raise Failed(f"`vouchsafe {' '.join(map(str, arguments))}` ended with exit code {code}:\n{output}")
        return output

    def daemon(self, name, config, *arguments):
        file = self.stage.home / f"{name}.toml"
        file.write_text("".join(f"{key} = {json.dumps(str(value))}\n" for key, value in config.items()))
        command = [self.binaries / f"vouchsafe-{name}", "run", "--config", file, *arguments]
        log = self.stage.home / f"{name}.log"
        return self.stage.add(Process(f"vouchsafe-{name}", command, log, stdin=subprocess.DEVNULL))

    def agent_config(self):
        """Further keys of the agent's configuration."""
        return {}

    def node(self):
        title("1. A node: the server is a certificate authority, the agent vouches for processes")
        port = free_port()
        server = self.daemon("server", {
            "trust_domain": "example.org", "data_dir": self.stage.home / "server",
            "listen": f"127.0.0.1:{port}", "admin_socket": self.server_socket})
        healthy = lambda: self.vouchsafe("--server-socket", self.server_socket, "health", "server")[0] == 0
        until("the server is healthy", healthy, server)
        line(f"vouchsafe-server, pid {server.pid}, serves example.org on 127.0.0.1:{port}")
        token = json.loads(self.must("--server-socket", self.server_socket, "token", "generate", "--spiffe-id", NODE,
                                     "--output", "json"))["value"]
        bundle = self.stage.home / "bundle.pem"
        bundle.write_text(self.must("--server-socket", self.server_socket, "bundle", "show", "--format", "pem"))
        agent = self.agent = self.daemon("agent", {
            "trust_domain": "example.org", "data_dir": self.stage.home / "agent",
            "server_address": f"127.0.0.1:{port}", "workload_socket": self.workload_socket,
            "admin_socket": self.agent_socket, "trust_bundle": bundle, **self.agent_config()}, "--join-token", token)
        healthy = lambda: self.vouchsafe("--agent-admin-socket", self.agent_socket, "health", "agent")[0] == 0
        until("the agent is healthy", healthy, agent)
        line(f"vouchsafe-agent, pid {agent.pid}, joined with a token that works once")


def interrupted(number, _):
    raise Failed(f"ended by {signal.Signals(number).name}")


def show(usage, venv, home, agents, story, target):
    """Tell `story(binaries, stage)` on a stage of its own and end what it started. `venv` and `target` are what
    `tools/deps` and `make` know them by. Returns the exit code."""
    arguments = sys.argv[1:]
    if arguments and (len(arguments) != 2 or arguments[0] != "--binaries"):
        print(usage.strip(), file=sys.stderr)
        return 64
    os.umask(0o022)
    stops = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for stop in stops:
        signal.signal(stop, interrupted)
    stage = None
    venv = ROOT / ".deps" / venv
    try:
        if not (venv / ".stamp").is_file():
            raise Failed(f"the Python packages are not installed: `make {target}` installs them")
        (site_packages,) = (venv / "lib").glob("python3*/site-packages")
        binaries = Path(arguments[1]).resolve() if arguments else build()
        stage = Stage(DEMO / home, site_packages, (venv / "bin" / "python").resolve(), DEMO / agents)
        story(binaries, stage)
        title(f"All of it happened. Logs and state of this run are in demo/{home}; the rest is gone.")
        return 0
    except Failed as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        return 1
    finally:
        for stop in stops:
            signal.signal(stop, signal.SIG_IGN)
        if stage is not None:
            stage.strike()
