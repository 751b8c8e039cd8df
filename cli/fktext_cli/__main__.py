"""`python -m fktext_cli` is `fktext`."""

from fktext_cli.app import main

main()
