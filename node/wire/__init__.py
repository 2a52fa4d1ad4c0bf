"""Sans-IO protocols: bytes to events and back. No sockets, clocks, random numbers or files here."""
