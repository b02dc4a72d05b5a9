"""A conformance suite for Tier 3A servers: `pytest conformance --base-url URL`."""
