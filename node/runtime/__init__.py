"""Processes, mailboxes, links, monitors and names, without a network."""
