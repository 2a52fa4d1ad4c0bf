"""Python as a node of an Erlang cluster."""
