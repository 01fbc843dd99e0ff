"""``python -m workbench`` is the command ``workbench``."""

from .cli.main import main

raise SystemExit(main())
