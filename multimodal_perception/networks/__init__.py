"""Networks: one file a published idea, named after it."""
