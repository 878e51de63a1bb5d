"""First stages in the kit: their training pass, and the objectives that train them."""
