"""Suites: what is compared, on which prompts, judged by whom. The TOML files here are those that come with fktext."""
