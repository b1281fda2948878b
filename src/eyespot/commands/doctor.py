"""`eyespot doctor`: the verb called, what was found printed."""

from __future__ import annotations

import typer

from eyespot.commands.options import JsonOption


def doctor(json: JsonOption = False) -> None:
    """Look at this machine: versions, speed, memory, disk, data, network, optional parts; and what to do about each.

    Exit code 1 only where training is impossible.

    Example: eyespot doctor
    """
    from eyespot.doctor import doctor as look
    from eyespot.doctor import print_diagnosis
    from eyespot.terminal import print_json

    found = look()
    if json:
        print_json(found.as_dict())
    else:
        print_diagnosis(found)
    if not found.can_train:
        raise typer.Exit(1)
