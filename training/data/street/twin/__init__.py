"""The same worlds in torch, for a GPU: many views at once."""
