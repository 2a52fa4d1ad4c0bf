"""The host service: on a host without Xen it plays the hypervisor for the domains of one user.

It gives out domain ids, grants (sealed memory) and event channels (socketpair ends), and runs the embedded XenStore.
docs/host-protocol.md describes what goes over its socket; the client half is C (csrc/pore/local.c).
"""
