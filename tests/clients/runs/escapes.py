"""What processes of a run get that try to be somebody else: one line of JSON for each, `{"who": …, "got": …}`.

usage: escapes.py ways              each way to start a process out of sight; each asks, and looks for the key
       escapes.py try WHO MAIN [TO] asks, and looks for the key of process MAIN; moves to the control group TO first
       escapes.py groups            at SIGUSR1 moves about in control groups that it may write to by then
       escapes.py sockets PATH…     passes connections on: to children, and to who listens at each PATH
       escapes.py asks FD           asks on a connection that it was left
       escapes.py stays             says which other thread it has, asks, and asks again at each SIGUSR1
       escapes.py opens             becomes readable for others, asks, shuts itself again, and asks
       escapes.py becomes           executes Python from where everybody can read it, and asks
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading

from raw import CALL, begin, connect, outcome, timed
from story import ask, hold_key
from thief import say, steal

ME = os.path.abspath(__file__)
CLONE_PARENT = 0x8000
CLONE = {"x86_64": 56, "aarch64": 220}
PR_SET_DUMPABLE = 4
MOUNTS = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]

# Enters every group that it may, of the hierarchy that it sees and of one that it mounts itself.
MOVING = """
mount -t cgroup2 none /mnt 2>/dev/null
for procs in $(find /sys/fs/cgroup /mnt -name cgroup.procs 2>/dev/null); do
    echo $$ > $procs && echo "moved to $procs"
done 2>/dev/null
exec "$@"
"""

WAYS = {
    "shell": ["/bin/sh", "-c", '"$@"', "sh"],
    "session": ["setsid", "-w"],
    "nohup": ["nohup"],
    "user": ["unshare", "-Ur"],
    "pid": ["unshare", "-Urpf"],
    "mount": ["unshare", "-Urm"],
    "moved": ["/bin/sh", "-c", MOVING, "sh"],
    "moved within": ["unshare", "-UrmC", "/bin/sh", "-c", MOVING, "sh"],
}


def ends(start):
    """Starts what has this end of a pipe, and waits until nobody has it any more."""
    here, there = os.pipe()
    os.set_inheritable(there, True)
    start()
    os.close(there)
    os.read(here, 1)
    os.close(here)


def forked(action):
    if os.fork() == 0:
        try:
            action()
        finally:
            os._exit(0)


def trying(who, *more):
    return [sys.executable, ME, "try", who, str(os.getpid()), *more]


def become(words):
    os.execvp(words[0], words)


def double(words):
    """Forks twice: whoever started it is gone."""
    forked(lambda: (os.setsid(), forked(lambda: become(words))))


def sibling(words):
    """A process whose parent is not this one, but this one's own parent."""
    libc = ctypes.CDLL(None)
    if libc.syscall(CLONE[os.uname().machine], CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0) == 0:
        become(words)


def ways():
    pem = hold_key()
    for who, before in WAYS.items():
        subprocess.run([*before, *trying(who)], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for who, start in {"double fork": double, "sibling": sibling}.items():
        words = trying(who)
        ends(lambda: start(words))
    assert pem


def move(to):
    with open(os.path.join(to, "cgroup.procs"), "w") as procs:
        procs.write(str(os.getpid()))


def own_group():
    with open("/proc/self/cgroup") as groups:
        own = [line.strip()[3:] for line in groups if line.startswith("0::")][0]
    return next(mount + own for mount in MOUNTS if os.path.exists(f"{mount}{own}/cgroup.procs"))


def groups():
    own = own_group()
    inner, elsewhere = os.path.join(own, "inner"), os.path.join(os.path.dirname(own), "elsewhere")
    say("main", ask())
    signal.sigwait({signal.SIGUSR1})
    os.mkdir(inner)
    for who, to in {"child within": inner, "child elsewhere": elsewhere}.items():
        subprocess.run(trying(who, to))
    for who, to in {"main within": inner, "main elsewhere": elsewhere, "main back": own}.items():
        move(to)
        say(who, ask())


def words_on(connection, answers=True):
    connection.sendall(CALL)
    return outcome(connection, answers)


def tried(who, connection):
    try:
        say(who, words_on(connection))
    except OSError:
        say(who, "cut")


def sockets(paths):
    api = os.environ["SPIFFE_ENDPOINT_SOCKET"].removeprefix("unix:").removeprefix("//")
    say("main", words_on(begin(connect(api))))
    connection = begin(connect(api))
    ends(lambda: forked(lambda: tried("inherited", connection)))
    connection = begin(connect(api))
    words = [sys.executable, ME, "asks", str(connection.fileno())]
    subprocess.run(words, pass_fds=[connection.fileno()])
    # What the main process asks, a child that shares the connection reads, in silence or with answers of its own.
    for who, answers in {"reads": False, "reads and answers": True}.items():
        connection = begin(connect(api))
        connection.sendall(CALL)
        ends(lambda: forked(lambda: say(who, outcome(connection, answers))))
    here, there = socket.socketpair()

    def passed():
        here.close()
        descriptors = socket.recv_fds(there, 1, 1)[1]
        tried("passed", timed(socket.socket(fileno=descriptors[0])))

    forked(passed)
    connection = begin(connect(api))
    socket.send_fds(here, [b"x"], [connection.fileno()])
    os.wait()
    for path in paths:
        with connect(path) as stranger:
            kept = begin(connect(api))
            socket.send_fds(stranger, [b"x"], [kept.fileno()])
            stranger.recv(1)  # until it has tried


def stays():
    thread = threading.Thread(target=signal.pause, daemon=True)
    thread.start()
    say("thread", thread.native_id)
    while True:
        say("main", ask())
        signal.sigwait({signal.SIGUSR1})


def opens():
    libc = ctypes.CDLL(None)
    for who, dumpable in {"open": 1, "shut": 0}.items():
        assert libc.prctl(PR_SET_DUMPABLE, dumpable, 0, 0, 0) == 0
        say(who, ask())


def main():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    match sys.argv[1:]:
        case ["ways"]:
            ways()
        case ["try", who, parent, *to]:
            for group in to:
                move(group)
            say(who, {"svid": ask(), "key": steal(int(parent))})
        case ["groups"]:
            groups()
        case ["sockets", *paths]:
            sockets(paths)
        case ["asks", descriptor]:
            tried("left", timed(socket.socket(fileno=int(descriptor))))
        case ["stays"]:
            stays()
        case ["opens"]:
            opens()
        case ["becomes"]:
            os.execv(sys.executable, [sys.executable, ME, "again"])
        case ["again"]:
            say("main", ask())


main()
