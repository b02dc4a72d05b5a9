"""Models and what becomes of them here, as tables that commands make: each module says how."""
