"""The HTTP server. May import inference and what comes before; needs the extra `serve`."""
