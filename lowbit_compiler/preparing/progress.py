"""How far a preparation is, and how long it still takes: on a terminal."""

import contextlib
from collections.abc import Callable, Iterator

Step = Callable[[str], None]
"""Called when a step is done, with the name of the next one."""


@contextlib.contextmanager
def progress(steps: int) -> Iterator[Step]:
    """Show a bar of so many equal steps on the standard error stream while the context lasts, where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("preparing", total=steps)

        def step(name: str) -> None:
            bar.update(task, advance=1, description=name)

        yield step
