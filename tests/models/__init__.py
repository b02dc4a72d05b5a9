"""Tables of models, made by hand: each module says how."""
