"""The first stage that leaves images as they are."""
