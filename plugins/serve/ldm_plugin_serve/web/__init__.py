"""The face to the network: routes, guards, answers."""
