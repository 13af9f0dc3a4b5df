"""Idle connections, held open by as many processes of hold.c as the limit of open files demands."""

import resource
import subprocess
from contextlib import contextmanager

from servers import HERE, compile_c

PER_PROCESS = 15_000
PER_ADDRESS = 5_000  # as in hold.c
RESERVED = 1000  # descriptors that a server's process needs for something else


def room(wanted, processes):
    """As many of the connections as a server of so many processes can hold."""
    return min(wanted, processes * (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - RESERVED))


@contextmanager
def holding(bench, address, connections, first=0):
    """Opens kept connections, each with one checked request. `first` is the number of those that are already open."""
    binary = compile_c(HERE / "hold.c", bench.out / "hold")
    limit = room(PER_PROCESS, 1)
    holders = []
    try:
        for begin in range(0, connections, limit):
            source = 1 + -(-(first + begin) // PER_ADDRESS)
            command = [binary, "-n", str(min(limit, connections - begin)), "-a", str(source), str(address[1])]
            holders.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        for holder in holders:
            if holder.stdout.readline() != "holding\n":
                raise RuntimeError("the server does not hold so many connections")
        yield Held(holders)
    finally:
        for holder in holders:
            holder.stdin.close()
        for holder in holders:
            holder.wait(timeout=30)
            holder.stdout.close()


class Held:
    def __init__(self, holders):
        self.holders = holders

    def ask_all(self):
        """Sends a request on every connection; returns how many were answered, and how many had been lost."""
        for holder in self.holders:
            holder.stdin.write("\n")
            holder.stdin.flush()
        replies = [holder.stdout.readline().split() for holder in self.holders]
        if not all(replies):
            raise RuntimeError("an answer on an idle connection was wrong")
        return sum(int(answered) for answered, _ in replies), sum(int(lost) for _, lost in replies)
