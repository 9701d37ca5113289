"""The paper's networks: names, blocks, networks, counts, and ways to run them faster. Imports only errors."""
