"""From a command line to the configuration of what it asks for."""
