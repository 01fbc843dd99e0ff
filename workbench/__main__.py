"""``python -m workbench`` is the command ``workbench``."""

from .cli import main

raise SystemExit(main())
