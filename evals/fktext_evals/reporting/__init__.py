"""What a run shows: tables, a verdict, figures, and the page that holds them all."""
