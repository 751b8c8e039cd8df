"""The entry point: registers the reward. Cheap to import, for it is imported whenever fktext lists rewards."""

from __future__ import annotations

from fktext.plugins import Register, hookimpl


@hookimpl
def fktext_register_rewards(register: Register) -> None:
    """Say what there is; the factory is imported when it is used."""
    register(
        "readability",
        "fktext_readability.flesch:readability",
        summary="how easy (or, with target=hard, how hard) a text is to read, in tens of Flesch points",
        options={"target": "easy or hard"},
        values="0 to 12.1, tens of Flesch points; minus that with target=hard",
    )
