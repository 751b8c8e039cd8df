"""Hold the models that come with fktext: a folder each with a card, listed in `models.toml`. Made by fktext's `recipes/`."""
