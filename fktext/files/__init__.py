"""Files of models: where they come from, what they hold, which are known by name."""
