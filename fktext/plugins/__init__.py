"""Open the door by which rewards, suites and models come in: hooks, and the loader of the installed plugins.

A plugin is a Python distribution with an entry point in the group `fktext` that leads to a module like this one::

    from fktext.plugins import hookimpl

    @hookimpl
    def fktext_register_rewards(register):
        register("length", "my_package.rewards:length", summary="minus the distance to a length",
                 options={"words": "the length aimed at"})

and, in `my_package/rewards.py`, a factory whose keyword-only parameters are the options::

    def length(context, *, words: int = 20):
        return Length(words)

The factory runs, and its module is imported, when the reward is first used; so a plugin's entry point stays cheap to import.
The built-in rewards come through the same door. One broken plugin never stops the rest: what went wrong with it is kept, shown
by `fktext plugins`, and raised when one of its rewards is asked for.

Three environment variables: `FKTEXT_DISABLE_PLUGINS=a,b` leaves out plugins by distribution, entry point or `distribution:entry
point`; `FKTEXT_STRICT_PLUGINS=1` makes any broken plugin an error; `FKTEXT_PLUGIN_TIMEOUT=10` is how many seconds one may take to
import and register, for a plugin that waits for a network must not keep the rest waiting.
"""

from fktext.plugins.loader import Register, hookimpl, load_plugins

__all__ = ["Register", "hookimpl", "load_plugins"]
