"""TensorBoard's event files, read back."""

import struct
from importlib import import_module


def events(folder):
    """Return {tag: {step: value}} of all event files of a folder."""
    event = import_module("tensorboardX.proto.event_pb2").Event
    found = {}
    for path in sorted(folder.iterdir()):
        content, place = path.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack("<Q", content[place : place + 8])
            # Behind the length and behind the record stand four bytes of checksum each.
            read = event.FromString(content[place + 12 : place + 12 + length])
            place += length + 16
            for value in read.summary.value:
                found.setdefault(value.tag, {})[read.step] = value.simple_value
    return found
