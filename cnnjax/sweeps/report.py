"""What a sweep leaves behind when it is done, or half done: results.csv, results.md, results.png."""

from pathlib import Path

from cnnjax.errors import UserError
from cnnjax.sweeps import ablation, picture, results
from cnnjax.sweeps.ablation import Sweep
from cnnjax.sweeps.status import DONE, require_same


def write(sweep: Sweep, folder: Path) -> str:
    """Writes the tables and the picture of a sweep into its folder; the Markdown one is returned.

    Raises:
      UserError: the folder holds something else, or no finished trial.
    """
    trials = ablation.trials(sweep, folder)
    require_same(trials, folder)
    found = results.rows(sweep, trials)
    if not any(row["state"] == DONE for row in found):
        raise UserError(f"No trial in {folder} is done yet.")
    lines = results.by_variant(sweep, ablation.variants(sweep), found)
    text = results.markdown(sweep, lines, found)
    (folder / "results.csv").write_text(results.as_csv(found))
    (folder / "results.md").write_text(text)
    picture.draw(sweep, lines).savefig(folder / "results.png")
    return text
