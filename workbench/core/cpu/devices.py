"""Ports: a serial line that is captured, and the debug exit that stops the machine.

Not modelled: everything else; other ports read as all ones and ignore writes.
"""

from __future__ import annotations

from ..jit import inner
from ..layout import SERIAL_LENGTH, ST_OK, ST_STOP

SERIAL = 0x3F8
SERIAL_STATUS = 0x3FD
SERIAL_READY = 0x60
"""Line status: transmitter holding register and shift register empty."""
DEBUG_EXIT = 0xF4


@inner
def port_in(m, port, lg):
    """Value that IN reads, ``1 << lg`` bytes."""
    if port == SERIAL_STATUS:
        return SERIAL_READY
    return (1 << (8 << lg)) - 1


@inner
def port_out(m, port, lg, value):
    """Write to a port; ST_OK, or ST_STOP with ``m.stop_code`` for the debug exit."""
    if port == SERIAL:
        m.serial[m.serial_count & (SERIAL_LENGTH - 1)] = value & 0xFF
        m.serial_count += 1
    elif port == DEBUG_EXIT:
        m.stop_code = value
        return ST_STOP
    return ST_OK
