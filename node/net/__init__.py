"""The asyncio edge: sockets, time and files around the machines of `node.wire`."""
