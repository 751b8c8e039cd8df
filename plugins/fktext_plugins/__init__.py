"""The rewards that come with fktext. Importing this package imports no torch: each reward's module is imported on first use."""
