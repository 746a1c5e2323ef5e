"""`python -m registry_server`, the same as `registry-server`."""

from registry_server.cli import main

main()
