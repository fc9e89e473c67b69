"""The demo's surroundings: a folder that every user can reach, processes that are ended whatever happens, and
waiting for a condition with a deadline."""

import fcntl
import json
import os
import pwd
import queue
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path

DEADLINE_SECONDS = 60
NOBODY = 65534


class Failed(Exception):
    """The demo did not show what it should; the text says what never came."""


def until(what, condition, process, seconds=DEADLINE_SECONDS):
    """Wait until a condition holds, as long as the process that should bring it about lives."""
    end = time.monotonic() + seconds
    while not condition():
        if process.ended_within(0.05):
            raise Failed(f"{process.name} ended before {what}\n{process.last_words()}")
        if time.monotonic() > end:
            raise Failed(f"{what}: not within {seconds} s\n{process.last_words()}")


class Process:
    """A process of the demo. Its stderr goes to a log; a daemon's stdout too."""

    def __init__(self, name, command, log, **options):
        self.name = name
        self.log = Path(log)
        with self.log.open("wb") as output:
            # Its own session: Ctrl-C reaches the demo alone, which then ends its processes in order.
            self.popen = subprocess.Popen([str(part) for part in command], stderr=output,
                                          stdout=options.pop("stdout", output), start_new_session=True, **options)

    @property
    def pid(self):
        return self.popen.pid

    def ended_within(self, seconds):
        try:
            self.popen.wait(timeout=seconds)
            return True
        except subprocess.TimeoutExpired:
            return False

    def last_words(self):
        lines = self.log.read_text(errors="replace").splitlines()[-15:]
        return "\n".join(f"      | {line}" for line in lines)

    def end(self, patience=10):
        if self.popen.stdin:
            self.popen.stdin.close()
        else:
            self.popen.terminate()
        if not self.ended_within(patience):
            self.popen.kill()
            self.popen.wait()


class Agent(Process):
    """A process that tells events and takes orders, as JSON lines."""

    def __init__(self, name, command, log, **options):
        super().__init__(name, command, log, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)
        self._events = queue.Queue()
        self._told = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.popen.stdout:
            try:
                self._events.put(json.loads(line))
            except ValueError:
                self._events.put({"event": "noise", "line": line})
        self._events.put({"event": "end of output"})

    def order(self, what, **more):
        self.popen.stdin.write(json.dumps({"do": what, **more}) + "\n")
        self.popen.stdin.flush()

    def event(self, *names, seconds=DEADLINE_SECONDS):
        """The next event of one of these names; others that came before it are passed over."""
        end = time.monotonic() + seconds
        while True:
            try:
                event = self._events.get(timeout=max(0, end - time.monotonic()))
            except queue.Empty:
                raise Failed(f"{self.name} did not tell {' or '.join(names)} within {seconds} s; it told "
                             f"{self._told}\n{self.last_words()}") from None
            self._told.append(event)
            if event["event"] in names:
                return event
            if event["event"] == "end of output":
                raise Failed(f"{self.name} ended before it told {' or '.join(names)}\n{self.last_words()}")

    def end(self, patience=3):
        super().end(patience)


def can_become_another_user():
    try:
        return os.geteuid() == 0 and subprocess.run(["true"], user=NOBODY, group=NOBODY, extra_groups=[]).returncode == 0
    except OSError:
        return False


def free_uids(count):
    """User ids that no account has."""
    free = []
    for uid in range(61001, 65000):
        try:
            pwd.getpwuid(uid)
        except KeyError:
            free.append(uid)
        if len(free) == count:
            return free
    raise Failed("no free user ids between 61001 and 65000")


class Stage:
    """`home` (in the checkout, private) for state and logs; `open` (elsewhere, gone at the end) for what other
    users must reach: interpreter, scripts, socket."""

    def __init__(self, home, site_packages, interpreter, agents):
        self.home = Path(home)
        self.home.mkdir(mode=0o700, exist_ok=True)
        self._lock = (self.home / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Failed("another demo runs in this checkout") from None
        for old in self.home.iterdir():
            if old.name != "lock":
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        self.processes = []
        self.open = None
        try:
            self._find_place(site_packages, interpreter, agents)
        except BaseException:
            self.strike()
            raise

    def _find_place(self, site_packages, interpreter, agents):
        for parent in ("/tmp", "/var/tmp"):
            if os.access(parent, os.W_OK):
                self.open = Path(os.path.realpath(tempfile.mkdtemp(prefix="vouchsafe-demo-", dir=parent)))
                self.open.chmod(0o755)
                if self._furnish(site_packages, interpreter, agents):
                    return
                self.strike()
        raise Failed("no folder under /tmp or /var/tmp lets another user run a program")

    def _furnish(self, site_packages, interpreter, agents):
        """Lay out interpreter and scripts; says whether another user can run them."""
        (self.open / "private").mkdir(mode=0o700)
        (self.open / "run").mkdir(mode=0o755)
        venv = self.open / "venv"
        subprocess.run([interpreter, "-m", "venv", "--without-pip", venv], check=True, stdin=subprocess.DEVNULL)
        self.python = venv / "bin" / "python"
        (inside,) = (venv / "lib").glob("python3*/site-packages")
        shutil.copytree(site_packages, inside, dirs_exist_ok=True, ignore=shutil.ignore_patterns("pip", "setuptools"))
        shutil.copytree(agents, self.open / "agents", ignore=shutil.ignore_patterns("__pycache__"))
        other = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if can_become_another_user() else {}
        try:
            probe = [self.python, "-c", "import spiffetls"]
            return subprocess.run(probe, cwd="/", env={}, stdin=subprocess.DEVNULL, **other).returncode == 0
        except OSError:
            return False

    def add(self, process):
        self.processes.append(process)
        return process

    def strike(self):
        """End what was started, the last first, and take away what stands outside `home`."""
        try:
            while self.processes:
                self.processes.pop().end()
        except Failed:
            self.strike()
            raise
        if self.open is not None:
            shutil.rmtree(self.open, ignore_errors=True)
            self.open = None
