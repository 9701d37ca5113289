"""The paper's networks: names, blocks, complexity, folding and recomputation. Imports only errors."""
