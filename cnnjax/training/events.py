"""TensorBoard events, written by this thread: tensorboardX's own writer does it in another, which a full disk stops dead."""

import socket
import struct
import time
from pathlib import Path

from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

NOT_SCALARS = ("split", "step", "epoch", "time")


class EventFile:
    """The events of one start of a run.

    Args:
      start: the step that the run goes on from; TensorBoard then forgets later events of earlier starts.
    """

    def __init__(self, workdir: Path, start: int):
        # TensorBoard reads files in the order of their names: never before one that is there already.
        there = [path.name.split(".")[3] for path in workdir.glob("events.out.tfevents.*")]
        number = max([int(time.time()), *(int(n) + 1 for n in there if n.isdigit())])
        self._path = workdir / f"events.out.tfevents.{number}.{socket.gethostname()}"
        self._start = start

    def write(self, entries: list[dict]) -> None:
        """Appends the scalars of log entries, all or none. Raises OSError."""
        events = []
        if not self._path.exists():
            events.append(Event(wall_time=time.time(), file_version="brain.Event:2"))
            if self._start:
                again = SessionLog(status=SessionLog.START)
                events.append(Event(wall_time=time.time(), step=self._start + 1, session_log=again))
        for entry in entries:
            values = [
                Summary.Value(tag=f"{entry['split']}/{name}", simple_value=value)
                for name, value in entry.items()
                if name not in NOT_SCALARS
            ]
            events.append(Event(wall_time=entry["time"], step=entry["step"], summary=Summary(value=values)))
        append(self._path, b"".join(_framed(event.SerializeToString()) for event in events))


def append(path: Path, data: bytes) -> None:
    """Adds to a file, or leaves it as it was and raises OSError."""
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            written = 0
            while written < len(data):  # a full disk may take the first part
                written += file.write(data[written:])
        except OSError:
            file.truncate(before)
            raise


def _framed(record: bytes) -> bytes:
    """A record of a TFRecord file: length, checksum of the length, record, checksum."""
    length = struct.pack("<Q", len(record))
    return length + _masked(length) + record + _masked(record)


def _masked(data: bytes) -> bytes:
    crc = crc32c(data) & 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
