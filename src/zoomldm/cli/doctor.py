"""`zoomldm doctor`: check whether this machine can run the package."""

import typer

from zoomldm.cli.options import Device, Json


def doctor(
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Show versions, devices and extras, and run a self-test."""
    from zoomldm.cli.diagnosis import diagnose
    from zoomldm.cli.output import print_json, print_table

    diagnosis = diagnose(device)
    if json:
        print_json(diagnosis)
    else:
        for title, part in diagnosis.items():
            if isinstance(part, dict):
                print_table(title, ["", ""], [[k, v] for k, v in part.items()])
    if not diagnosis["self_test"]["passed"]:
        raise typer.Exit(2)
