"""Where domains, grants and event channels come from: one interface, one module for each platform.

`base` is the interface; `local` has domains on one Linux host without Xen, `xen` those of a real one, `choose` says
which. Importing this package imports none of them.
"""
