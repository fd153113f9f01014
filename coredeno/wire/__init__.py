"""What both wires share: framing, values, bytes and error tables. Pure: no I/O."""
