"""The progress display of a training run."""

from __future__ import annotations

from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from lenet.progress import Display
from lenet.report.rounding import accuracy, loss, thousands
from lenet.terminal import Terminal
from lenet.training.run import EpochRecord, Run

__all__ = ["TrainingDisplay"]

_HEADER = "epoch   lr      train loss  train acc  test loss  test acc  images/s"


class _ImagesPerSecond(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{thousands(task.speed or 0)} images/s", style="cyan")


class TrainingDisplay(Display):
    """A progress bar over the images of all epochs, and a line for each finished epoch."""

    def __init__(self, console: Terminal | None = None) -> None:
        super().__init__(
            TextColumn("[bold]epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            _ImagesPerSecond(),
            TimeRemainingColumn(),
            console=console,
            expand=True,
        )
        self._task = self.bar.add_task("", start=False, total=None, epoch=0, epochs=0)
        self._epochs = 0
        self._images = 0

    def start(self, run: Run) -> None:
        """Print the table's header, and the finished epochs of a resumed run."""
        self._epochs = run.recipe.epochs
        self._images = run.images
        total = self._epochs * self._images
        self.bar.reset(self._task, total=total, completed=len(run.history) * self._images, epochs=self._epochs, epoch=0)
        self.note(_HEADER, style="bold")
        for record in run.history:
            self._print(record)
        self._show_epoch(len(run.history) + 1)

    def step(self, images: int) -> None:
        """Advance by a step's images."""
        self.bar.advance(self._task, images)

    def epoch(self, record: EpochRecord) -> None:
        """Print a finished epoch."""
        self._print(record)
        self._show_epoch(record.epoch + 1)

    def _show_epoch(self, epoch: int) -> None:
        self.bar.update(self._task, epoch=min(epoch, self._epochs))

    def _print(self, record: EpochRecord) -> None:
        self.note(
            f"{record.epoch:5d}   {record.learning_rate:<7.3g} {loss(record.train_loss):>10}  "
            f"{accuracy(record.train_accuracy):>9}  {loss(record.test_loss):>9}  {accuracy(record.test_accuracy):>8}  "
            f"{thousands(record.images_per_second):>8}"
        )
