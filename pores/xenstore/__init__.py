"""XenStore: its wire, a client for asyncio, and a store of our own for hosts without Xen.

`client.XenStore` speaks with any store; `server.StoreServer` is one. The rest has no sockets: `wire` (messages),
`tree` (the store itself), `commands` (both together). Importing this package imports nothing of it.
"""
