"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

IndexOption = Annotated[str, typer.Option("--index", help="Name or folder of the index.")]
ModelOption = Annotated[str | None, typer.Option("--model", help="Model name, .safetensors or published .pt file.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]
