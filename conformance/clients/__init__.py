"""The other side of the wire: a Tier 3A that is played, and judges the Tier 2 client that talks to it."""
