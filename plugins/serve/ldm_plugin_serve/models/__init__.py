"""The served models, and the requests to them."""
