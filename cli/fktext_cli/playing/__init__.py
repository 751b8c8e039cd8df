"""The server behind `fktext play`: a page on this machine alone, whose runs a person can watch, stop and reach into."""
