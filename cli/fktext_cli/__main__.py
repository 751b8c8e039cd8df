"""Run `fktext` as `python -m fktext_cli`."""

from fktext_cli.app import main

main()
