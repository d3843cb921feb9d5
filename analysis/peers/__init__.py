"""Other tools, each trained as its own documentation says, on the images and the backbone that the
race gives all: their transform, projector, loss and optimizer are imported from their packages."""
